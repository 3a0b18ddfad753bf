"""The benchmarks of both papers: classes, protocol and file layouts."""

from dataclasses import dataclass
from functools import cache

from ovsdino_benchmarks.datasets import label_values as values
from ovsdino_benchmarks.datasets.protocol import DINOV3SEG, OVSDINO, Protocol
from ovsdino_runtime.files.labeled_folder import Values, plain, reduced

VOC_URL = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar"
CONTEXT_URL = (
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar and, into VOC2010/, "
    "https://codalabuser.blob.core.windows.net/public/trainval_merged.json"
)
COCO_URL = (
    "http://images.cocodataset.org/zips/val2017.zip into images/ and "
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip "
    "into annotations/"
)
CITYSCAPES_URL = "leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com/downloads/"
ADE_URL = "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip"
ADE_FULL_URL = (
    "https://groups.csail.mit.edu/vision/datasets/ADE20K/request_data/, then Mask2Former's "
    "datasets/prepare_ade20k_full_sem_seg.py"
)
CONTEXT459_URL = (
    "http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar and, into VOC2010/, "
    "https://roozbehm.info/pascal-context/trainval.tar.gz and CAT-Seg's pascalcontext_val.txt"
)


@dataclass(frozen=True)
class FileLayout:
    """A file layout of a data set. ``{}`` stands for the name of a photo, which may contain a folder."""

    roots: tuple[str, ...]  # where it may begin, below the folder that the user gives
    photos: str
    labels: str  # a file for each photo, or one .json with all masks
    values: Values
    names: tuple[str, ...] = ()  # files with one name a line, the first that exists; none: every label file


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: one column of a paper's table."""

    title: str
    vocabulary: str
    photos: int  # in the full set; fewer are a subset
    layouts: tuple[FileLayout, ...]
    source: str  # where to get it
    protocol: Protocol = OVSDINO
    names: str = ""  # the official list of names where it is not called as the vocabulary

    @property
    def official(self) -> str:
        """Key of its official class names in `official_names`."""
        return self.names or self.vocabulary


def _any_folder(meaning: Values) -> FileLayout:
    """Return the layout of a folder with a subset of a benchmark's photos and labels."""
    return FileLayout(roots=("",), photos="images/{}", labels="labels/{}.png", values=meaning)


VOC_ROOTS = ("VOCdevkit/VOC2012", "VOC2012", "")
CONTEXT_ROOTS = ("VOCdevkit/VOC2010", "VOC2010", "")
COCO_ROOTS = ("", "coco", "coco_stuff164k", "coco-stuff", "coco_object")
ADE_ROOTS = ("ADEChallengeData2016", "ade/ADEChallengeData2016", "")
CONTEXT_LISTS = ("ImageSets/SegmentationContext/val.txt", "pascalcontext_val.txt")


def _voc(meaning: Values) -> tuple[FileLayout, ...]:
    listed = ("ImageSets/Segmentation/val.txt",)
    return (
        FileLayout(
            roots=VOC_ROOTS,
            photos="JPEGImages/{}.jpg",
            labels="SegmentationClass/{}.png",
            values=meaning,
            names=listed,
        ),
        _any_folder(meaning),
    )


def _context(*, background: bool) -> tuple[FileLayout, ...]:
    photos = "JPEGImages/{}.jpg"
    pixels = values.context_pixels(background=background)
    converted = FileLayout(
        roots=CONTEXT_ROOTS,
        photos=photos,
        labels="SegmentationClassContext/{}.png",
        values=pixels,
        names=CONTEXT_LISTS,
    )
    masks = values.context_categories(background=background)
    return (
        converted,
        FileLayout(roots=CONTEXT_ROOTS, photos=photos, labels="trainval_merged.json", values=masks),
        _any_folder(pixels),
    )


def _coco(official: Values, converted: Values, *, suffix: str, subset: Values) -> tuple[FileLayout, ...]:
    photos = "images/val2017/{}.jpg"
    return (
        FileLayout(
            roots=COCO_ROOTS, photos=photos, labels=f"annotations/val2017/{{}}{suffix}.png", values=converted
        ),
        FileLayout(roots=COCO_ROOTS, photos=photos, labels="annotations/val2017/{}.png", values=official),
        FileLayout(
            roots=COCO_ROOTS, photos="val2017/{}.jpg", labels="stuffthingmaps/val2017/{}.png", values=official
        ),
        FileLayout(
            roots=COCO_ROOTS,
            photos="val2017/{}.jpg",
            labels="stuffthingmaps_trainval2017/val2017/{}.png",
            values=official,
        ),
        _any_folder(subset),
    )


def _cityscapes() -> tuple[FileLayout, ...]:
    photos, labels = "leftImg8bit/val/{}_leftImg8bit.png", "gtFine/val/{}_gtFine_%s.png"
    return (
        FileLayout(
            roots=("", "cityscapes"), photos=photos, labels=labels % "labelTrainIds", values=plain(19)
        ),
        FileLayout(
            roots=("", "cityscapes"),
            photos=photos,
            labels=labels % "labelIds",
            values=values.cityscapes_ids(),
        ),
        _any_folder(plain(19)),
    )


def _ade() -> tuple[FileLayout, ...]:
    meaning = reduced(150)
    return (
        FileLayout(
            roots=ADE_ROOTS,
            photos="images/validation/{}.jpg",
            labels="annotations/validation/{}.png",
            values=meaning,
        ),
        _any_folder(meaning),
    )


def _context459() -> tuple[FileLayout, ...]:
    photos = "JPEGImages/{}.jpg"
    zero_based, one_based = plain(459, ignore=65535), reduced(459, ignore=65535)
    return (
        FileLayout(
            roots=CONTEXT_ROOTS,
            photos=photos,
            labels="annotations_detectron2/pc459_val/{}.tif",
            values=zero_based,
        ),
        FileLayout(
            roots=CONTEXT_ROOTS,
            photos=photos,
            labels="trainval/{}.mat",
            values=one_based,
            names=CONTEXT_LISTS,
        ),
    )


def _context59_detectron() -> tuple[FileLayout, ...]:
    pixels = values.context_pixels_reduced()
    layout = FileLayout(
        roots=CONTEXT_ROOTS,
        photos="JPEGImages/{}.jpg",
        labels="annotations_detectron2/pc59_val/{}.png",
        values=pixels,
    )
    return layout, *_context(background=False)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return all benchmarks by name: the eight of OVS-DINO's Table 1, then the five of dinov3.seg."""
    return _of_ovsdino() | _of_dinov3seg()


def _of_ovsdino() -> dict[str, Benchmark]:
    stuff, objects = values.stuff_pixels(), values.object_pixels()
    of_stuff = _coco(stuff, plain(171), suffix="_labelTrainIds", subset=stuff)
    of_objects = _coco(objects, plain(81), suffix="_instanceTrainIds", subset=plain(81))
    return {
        "voc21": Benchmark(
            title="V21", vocabulary="voc21", photos=1449, layouts=_voc(plain(21)), source=VOC_URL
        ),
        "context60": Benchmark(
            title="C60",
            vocabulary="context60",
            photos=5104,
            layouts=_context(background=True),
            source=CONTEXT_URL,
        ),
        "coco-object": Benchmark(
            title="Obj", vocabulary="coco_object81", photos=5000, layouts=of_objects, source=COCO_URL
        ),
        "voc20": Benchmark(
            title="V20", vocabulary="voc20", photos=1449, layouts=_voc(reduced(20)), source=VOC_URL
        ),
        "context59": Benchmark(
            title="C59",
            vocabulary="context59",
            photos=5104,
            layouts=_context(background=False),
            source=CONTEXT_URL,
        ),
        "coco-stuff": Benchmark(
            title="Stuff", vocabulary="coco_stuff171", photos=5000, layouts=of_stuff, source=COCO_URL
        ),
        "cityscapes": Benchmark(
            title="City", vocabulary="cityscapes19", photos=500, layouts=_cityscapes(), source=CITYSCAPES_URL
        ),
        "ade20k": Benchmark(title="ADE", vocabulary="ade150", photos=2000, layouts=_ade(), source=ADE_URL),
    }


def _of_dinov3seg() -> dict[str, Benchmark]:
    full = FileLayout(
        roots=("ADE20K_2021_17_01", ""),
        photos="images_detectron2/validation/{}.jpg",
        labels="annotations_detectron2/validation/{}.tif",
        values=plain(847, ignore=65535),
    )
    return {
        "a-847": Benchmark(
            title="A-847",
            vocabulary="ade847",
            photos=2000,
            layouts=(full,),
            source=ADE_FULL_URL,
            protocol=DINOV3SEG,
        ),
        "pc-459": Benchmark(
            title="PC-459",
            vocabulary="context459",
            photos=5104,
            layouts=_context459(),
            source=CONTEXT459_URL,
            protocol=DINOV3SEG,
        ),
        "a-150": Benchmark(
            title="A-150",
            vocabulary="ade150",
            photos=2000,
            layouts=_ade(),
            source=ADE_URL,
            protocol=DINOV3SEG,
        ),
        "pc-59": Benchmark(
            title="PC-59",
            vocabulary="context59",
            photos=5104,
            layouts=_context59_detectron(),
            source=CONTEXT_URL,
            protocol=DINOV3SEG,
            names="context59-catseg",
        ),
        "pas-20": Benchmark(
            title="PAS-20",
            vocabulary="voc20",
            photos=1449,
            layouts=_voc(reduced(20)),
            source=VOC_URL,
            protocol=DINOV3SEG,
        ),
    }
