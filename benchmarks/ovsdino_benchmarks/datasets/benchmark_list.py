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
    return FileLayout(("",), "images/{}", "labels/{}.png", meaning)


VOC_ROOTS = ("VOCdevkit/VOC2012", "VOC2012", "")
CONTEXT_ROOTS = ("VOCdevkit/VOC2010", "VOC2010", "")
COCO_ROOTS = ("", "coco", "coco_stuff164k", "coco-stuff", "coco_object")
ADE_ROOTS = ("ADEChallengeData2016", "ade/ADEChallengeData2016", "")
CONTEXT_LISTS = ("ImageSets/SegmentationContext/val.txt", "pascalcontext_val.txt")


def _voc(meaning: Values) -> tuple[FileLayout, ...]:
    listed = ("ImageSets/Segmentation/val.txt",)
    return (
        FileLayout(VOC_ROOTS, "JPEGImages/{}.jpg", "SegmentationClass/{}.png", meaning, listed),
        _any_folder(meaning),
    )


def _context(*, background: bool) -> tuple[FileLayout, ...]:
    photos = "JPEGImages/{}.jpg"
    pixels = values.context_pixels(background=background)
    converted = FileLayout(CONTEXT_ROOTS, photos, "SegmentationClassContext/{}.png", pixels, CONTEXT_LISTS)
    masks = values.context_categories(background=background)
    return converted, FileLayout(CONTEXT_ROOTS, photos, "trainval_merged.json", masks), _any_folder(pixels)


def _coco(official: Values, converted: Values, suffix: str, subset: Values) -> tuple[FileLayout, ...]:
    photos = "images/val2017/{}.jpg"
    return (
        FileLayout(COCO_ROOTS, photos, f"annotations/val2017/{{}}{suffix}.png", converted),
        FileLayout(COCO_ROOTS, photos, "annotations/val2017/{}.png", official),
        FileLayout(COCO_ROOTS, "val2017/{}.jpg", "stuffthingmaps/val2017/{}.png", official),
        FileLayout(COCO_ROOTS, "val2017/{}.jpg", "stuffthingmaps_trainval2017/val2017/{}.png", official),
        _any_folder(subset),
    )


def _cityscapes() -> tuple[FileLayout, ...]:
    photos, labels = "leftImg8bit/val/{}_leftImg8bit.png", "gtFine/val/{}_gtFine_%s.png"
    return (
        FileLayout(("", "cityscapes"), photos, labels % "labelTrainIds", plain(19)),
        FileLayout(("", "cityscapes"), photos, labels % "labelIds", values.cityscapes_ids()),
        _any_folder(plain(19)),
    )


def _ade() -> tuple[FileLayout, ...]:
    meaning = reduced(150)
    return (
        FileLayout(ADE_ROOTS, "images/validation/{}.jpg", "annotations/validation/{}.png", meaning),
        _any_folder(meaning),
    )


def _context459() -> tuple[FileLayout, ...]:
    photos = "JPEGImages/{}.jpg"
    zero_based, one_based = plain(459, ignore=65535), reduced(459, ignore=65535)
    return (
        FileLayout(CONTEXT_ROOTS, photos, "annotations_detectron2/pc459_val/{}.tif", zero_based),
        FileLayout(CONTEXT_ROOTS, photos, "trainval/{}.mat", one_based, CONTEXT_LISTS),
    )


def _context59_detectron() -> tuple[FileLayout, ...]:
    pixels = values.context_pixels_reduced()
    layout = FileLayout(CONTEXT_ROOTS, "JPEGImages/{}.jpg", "annotations_detectron2/pc59_val/{}.png", pixels)
    return layout, *_context(background=False)


@cache
def benchmarks() -> dict[str, Benchmark]:
    """Return all benchmarks by name: the eight of OVS-DINO's Table 1, then the five of dinov3.seg."""
    stuff, objects = values.stuff_pixels(), values.object_pixels()
    full = FileLayout(
        ("ADE20K_2021_17_01", ""),
        "images_detectron2/validation/{}.jpg",
        "annotations_detectron2/validation/{}.tif",
        plain(847, ignore=65535),
    )
    of_stuff = _coco(stuff, plain(171), "_labelTrainIds", stuff)
    of_objects = _coco(objects, plain(81), "_instanceTrainIds", plain(81))
    return {
        "voc21": Benchmark("V21", "voc21", 1449, _voc(plain(21)), VOC_URL),
        "context60": Benchmark("C60", "context60", 5104, _context(background=True), CONTEXT_URL),
        "coco-object": Benchmark("Obj", "coco_object81", 5000, of_objects, COCO_URL),
        "voc20": Benchmark("V20", "voc20", 1449, _voc(reduced(20)), VOC_URL),
        "context59": Benchmark("C59", "context59", 5104, _context(background=False), CONTEXT_URL),
        "coco-stuff": Benchmark("Stuff", "coco_stuff171", 5000, of_stuff, COCO_URL),
        "cityscapes": Benchmark("City", "cityscapes19", 500, _cityscapes(), CITYSCAPES_URL),
        "ade20k": Benchmark("ADE", "ade150", 2000, _ade(), ADE_URL),
        "a-847": Benchmark("A-847", "ade847", 2000, (full,), ADE_FULL_URL, DINOV3SEG),
        "pc-459": Benchmark("PC-459", "context459", 5104, _context459(), CONTEXT459_URL, DINOV3SEG),
        "a-150": Benchmark("A-150", "ade150", 2000, _ade(), ADE_URL, DINOV3SEG),
        "pc-59": Benchmark(
            "PC-59",
            "context59",
            5104,
            _context59_detectron(),
            CONTEXT_URL,
            DINOV3SEG,
            names="context59-catseg",
        ),
        "pas-20": Benchmark("PAS-20", "voc20", 1449, _voc(reduced(20)), VOC_URL, DINOV3SEG),
    }
