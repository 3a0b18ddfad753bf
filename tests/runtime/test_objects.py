"""Objects of a segmentation; the references are scipy, pycocotools, labelme's reader and hand-made cases."""

import json
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image, ImageDraw
from scipy import ndimage

from ovsdino_runtime.base.errors import ClassesError, OptionError, OutputError
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.cli import run
from ovsdino_runtime.geometry.components import connected_components
from ovsdino_runtime.geometry.outlines import join_holes, outline

CLASSES = ("background", "cat", "dog")


def segmentation(labels, *, background=0.3, classes=CLASSES):
    labels = np.asarray(labels, np.uint16)
    random = np.random.default_rng(0)
    return Segmentation(
        photo=random.integers(0, 256, (*labels.shape, 3), dtype=np.uint8),
        labels=labels,
        scores=random.random(labels.shape).astype(np.float16),
        classes=classes,
        background=background,
        model="tiny",
        engine="none",
        timings={},
    )


@pytest.mark.parametrize(("background", "classes"), [(0.3, CLASSES), (None, ("cat", "dog"))])
def test_pixels_without_data_are_no_object(background, classes):
    labels = np.full((10, 12), 255, np.uint16)  # as `without_no_data` sets it
    labels[2:5, 3:9] = 1
    objects = segmentation(labels, background=background, classes=classes).objects(min_area=0)
    assert [(item.name, item.box) for item in objects] == [(classes[1], (3, 2, 6, 3))]


@pytest.fixture
def two_cats_and_a_ring():
    """Two cats that touch at a corner, and a dog with a hole, (60, 80)."""
    labels = np.zeros((60, 80), np.uint16)
    labels[5:15, 5:25] = labels[15:25, 25:45] = 1
    labels[30:55, 10:70] = 2
    labels[40:45, 30:50] = 0
    return segmentation(labels)


@pytest.mark.parametrize(
    ("shape", "count"), [((1, 1), 2), ((1, 9), 2), ((9, 1), 2), ((40, 50), 2), ((60, 80), 5)]
)
def test_components_are_those_of_scipy(shape, count):
    labels = np.random.default_rng(1).integers(0, count, shape).astype(np.uint16)
    components = connected_components(labels)
    total = 0
    for label in range(count):
        expected, found = ndimage.label(labels == label)
        pairs = np.unique(np.stack([expected[labels == label], components[labels == label]]), axis=1)
        assert pairs.shape[1] == found
        total += found
    assert components.max() + 1 == total
    firsts = np.unique(components, return_index=True)[1]
    assert (np.diff(firsts) > 0).all()  # numbered in the order of their first pixels


def test_a_path_that_winds_through_all_rows_is_one_component():
    labels = np.zeros((81, 40), np.uint16)
    labels[::2] = 1
    labels[1::4, -1] = labels[3::4, 0] = 1  # from row to row at alternating ends
    assert ndimage.label(labels)[1] == 1
    assert len(np.unique(connected_components(labels)[labels == 1])) == 1
    assert len(np.unique(connected_components(labels.T.copy())[labels.T == 1])) == 1


def test_objects_by_hand(two_cats_and_a_ring):
    dog, *cats = two_cats_and_a_ring.objects()
    assert (dog.name, dog.label, dog.area, dog.box) == ("dog", 2, 25 * 60 - 100, (10, 30, 60, 25))
    assert [(cat.area, cat.box, cat.centroid) for cat in cats] == [
        (200, (5, 5, 20, 10), (15.0, 10.0)),
        (200, (25, 15, 20, 10), (35.0, 20.0)),
    ]
    mask = two_cats_and_a_ring.labels == 2
    np.testing.assert_array_equal(dog.mask(), mask)
    assert dog.score == pytest.approx(two_cats_and_a_ring.scores[mask].mean(dtype=float))
    outer, hole = dog.polygon()
    assert set(outer) == {(10, 30), (70, 30), (70, 55), (10, 55)}
    assert set(hole) == {(30, 40), (50, 40), (50, 45), (30, 45)}
    assert [o.name for o in two_cats_and_a_ring.objects(["cat"])] == ["cat", "cat"]
    assert [o.name for o in two_cats_and_a_ring.objects(min_area=0.1)] == ["dog"]
    assert two_cats_and_a_ring.objects(min_area=200 / 4800)[1].area == 200  # as large as the limit


def test_without_a_background_every_class_has_objects():
    found = segmentation([[0, 0, 1, 1]] * 4, background=None, classes=("sky", "sea"))
    assert [item.name for item in found.objects()] == ["sky", "sea"]
    assert replace(found, scores=None).objects()[0].score is None


@pytest.mark.parametrize("area", [-0.1, 1.5, True, float("nan")])
def test_areas_that_cannot_be(two_cats_and_a_ring, area):
    with pytest.raises(OptionError, match=r"min_area is a share of the photo in 0\.\.1"):
        two_cats_and_a_ring.objects(min_area=area)


def test_a_class_by_name(two_cats_and_a_ring):
    result = two_cats_and_a_ring
    np.testing.assert_array_equal(result.mask("cat"), result.labels == 1)
    assert len(result.polygons("cat")) == 2
    np.testing.assert_array_equal(result.crop("cat"), result.photo[5:25, 5:45])
    assert replace(result, labels=np.zeros_like(result.labels)).crop("cat") is None
    for ask in (result.mask, result.polygons, result.crop, lambda name: result.objects([name])):
        with pytest.raises(
            ClassesError, match="'cow' is none of the classes of this result: background, cat"
        ):
            ask("cow")


def test_a_result_shows_itself(two_cats_and_a_ring, tmp_path):
    result = replace(two_cats_and_a_ring, classes=("background", "cat", "dog", "<cow>"))
    assert repr(result) == "<Segmentation 80x60 by tiny: background 62.5%, dog 29.2%, cat 8.3%>"
    page = result._repr_html_()
    assert "<tr><td>&lt;cow&gt;</td><td>0.0%</td><td></td></tr>" in page
    assert page.startswith('<img src="data:image/png;base64,')
    assert result._repr_png_()[:4] == b"\x89PNG"
    result.save(tmp_path / "new" / "a.jpg")
    with Image.open(tmp_path / "new" / "a.jpg") as image:
        assert (image.format, image.size) == ("JPEG", result.overlay().size)
    for name in ("a.txt", "a"):
        with pytest.raises(OutputError, match="is no image format"):
            result.save(tmp_path / name)


def fill(ring, shape):
    """Fill a ring exactly: pixels whose centre is inside, by drawing it eight times as large."""
    image = Image.new("1", (shape[1] * 8, shape[0] * 8))
    ImageDraw.Draw(image).polygon([(8 * x, 8 * y) for x, y in ring], fill=1)
    return np.asarray(image)[4::8, 4::8]


def test_a_ring_with_cuts_fills_as_the_polygon():
    random = np.random.default_rng(2)
    mask = ndimage.binary_opening(ndimage.gaussian_filter(random.random((60, 80)), 2) > 0.5, iterations=2)
    polygons = outline(mask)
    assert any(len(polygon) > 1 for polygon in polygons)
    filled = sum(fill(join_holes(polygon), mask.shape).astype(int) for polygon in polygons)
    np.testing.assert_array_equal(filled, mask)


@pytest.fixture
def written(shared_bundle, flag, tmp_path):
    """What the command writes of two photos."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, photo in (("a", flag), ("b", flag[:, ::-1])):
        Image.fromarray(photo).save(folder / f"{name}.png")
    options = ["--model", shared_bundle.path, "--classes", "red, green, blue, white", "--threads", 1]
    kinds = "coco,yolo,labelme,voc,labels"
    done = CliRunner().invoke(
        run, list(map(str, [folder, *options, "--save", kinds, "--out", tmp_path / "out"]))
    )
    assert done.exit_code == 0, done.output
    labels = {name: np.asarray(Image.open(tmp_path / "out" / f"{name}_labels.png")) for name in "ab"}
    return tmp_path / "out", labels


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools, numpy 2
def test_pycocotools_reads_the_masks(written):
    from pycocotools.coco import COCO

    out, labels = written
    coco = COCO(str(out / "coco.json"))
    assert [category["name"] for category in coco.loadCats(coco.getCatIds())] == [
        "red",
        "green",
        "blue",
        "white",
    ]
    for image in coco.loadImgs(coco.getImgIds()):
        expected = labels[image["file_name"][0]]
        found = np.full(expected.shape, -1)
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=image["id"])):
            mask = coco.annToMask(annotation).astype(bool)
            assert mask.sum() == annotation["area"]
            rows, columns = np.nonzero(mask)
            left, top, width, height = annotation["bbox"]
            assert (columns.min(), rows.min()) == (left, top)
            assert (np.ptp(columns) + 1, np.ptp(rows) + 1) == (width, height)
            found[mask] = annotation["category_id"] - 1
        assert (found == expected).mean() > 0.99  # but for what is smaller than the least area


def test_yolo_labels_fill_the_classes(written):
    out, labels = written
    assert '  3: "white"\n' in (out / "yolo" / "data.yaml").read_text()
    for name, expected in labels.items():
        found = np.full(expected.shape, -1)
        for line in (out / "yolo" / "labels" / f"{name}.txt").read_text().splitlines():
            label, *corners = line.split()
            ring = np.array(corners, float).reshape(-1, 2)
            assert ((ring >= 0) & (ring <= 1)).all()
            found[fill((ring * expected.shape[::-1]).tolist(), expected.shape)] = int(label)
        assert (found == expected).mean() > 0.98


@pytest.mark.filterwarnings("ignore")  # of its own libraries
def test_labelme_reads_the_polygons(written, monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # labelme removes the limit
    label_file = pytest.importorskip("labelme._label_file", exc_type=ImportError)
    from labelme.utils import shape_to_mask

    out, labels = written
    for name, expected in labels.items():
        read = label_file.LabelFile(str(out / "labelme" / f"{name}.json"))
        assert len(read.shapes) == len({shape["label"] for shape in read.shapes}) == 3
        assert Image.open(out / "labelme" / read.image_path).size == expected.shape[::-1]
        for shape in read.shapes:
            mask = shape_to_mask(expected.shape, shape["points"], shape["shape_type"])
            truth = expected == ["red", "green", "blue", "white"].index(shape["label"])
            assert (mask & truth).sum() / (mask | truth).sum() > 0.95  # it draws the outline's pixels as well


def test_pascal_voc_is_as_voc_has_it(written):
    out, labels = written
    assert (out / "voc" / "names.txt").read_text().split() == ["background", "red", "green", "blue", "white"]
    for name, expected in labels.items():
        classes = np.asarray(Image.open(out / "voc" / "SegmentationClass" / f"{name}.png"))
        np.testing.assert_array_equal(classes, expected + 1)
        root = ElementTree.parse(out / "voc" / "Annotations" / f"{name}.xml").getroot()
        assert root.findtext("filename") == f"{name}.png"
        assert (root.findtext("size/width"), root.findtext("size/height")) == ("150", "90")
        for item in root.iter("object"):
            rows, columns = np.nonzero(classes == ["red", "green", "blue"].index(item.findtext("name")) + 1)
            box = [int(item.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
            assert box == [columns.min() + 1, rows.min() + 1, columns.max() + 1, rows.max() + 1]


def test_names_of_any_characters(tmp_path):
    from ovsdino_runtime.files.object_sets import CocoSet, save_labelme, save_voc, save_yolo

    name = '<cat> & "dog"'
    result = segmentation(np.ones((20, 20)), classes=("background", name))
    photo = tmp_path / "photo & <co>.png"
    coco = CocoSet(tmp_path / "coco.json")
    coco.add(result, photo.name)
    coco.close()
    assert json.loads((tmp_path / "coco.json").read_text())["categories"][0]["name"] == name
    file = save_voc(result, tmp_path / "voc", "photo", photo=photo)
    assert ElementTree.parse(file).getroot().findtext("object/name") == name
    assert (
        json.loads(save_labelme(result, tmp_path, "p", photo=photo).read_text())["shapes"][0]["label"] == name
    )
    save_yolo(result, tmp_path / "yolo", "photo")
    assert (tmp_path / "yolo" / "labels" / "photo.txt").read_text().startswith("0 0 0 ")


def test_coco_is_one_file_and_not_for_a_cluster(flag_file, shared_bundle):
    options = ["--classes", "red", "--save", "coco", "--ray", "local", "--model", str(shared_bundle.path)]
    done = CliRunner().invoke(run, [str(flag_file), *options])
    assert done.exit_code == 2
    assert "--save coco collects all photos in one file: leave out --ray" in done.stderr
