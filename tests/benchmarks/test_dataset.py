"""Every reader on a tiny tree as archives unpack or converters write it; and what is refused."""

import json

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from ovsdino_benchmarks.datasets.benchmark_list import benchmarks
from ovsdino_benchmarks.datasets.dataset import open_benchmark, open_folder
from ovsdino_benchmarks.datasets.label_values import CONTEXT_IDS, IGNORED, stuff_pixels
from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.files.labeled_folder import DataError, LabelError
from ovsdino_runtime.geometry.rle import decode_rle
from ovsdino_runtime.text.vocabulary import load_vocabulary

SHAPE = (8, 12)


def photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SHAPE[::-1]).save(path)


def labels(path, *values, kind=np.uint8):
    """Upright stripes of these values."""
    path.parent.mkdir(parents=True, exist_ok=True)
    stripes = np.array(values, kind)[np.arange(SHAPE[1]) * len(values) // SHAPE[1]]
    Image.fromarray(np.broadcast_to(stripes, SHAPE).copy()).save(path)


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def found(name, folder):
    """The classes in the first photo, from left to right, and the data set."""
    dataset = open_benchmark(name, folder)
    truth = dataset.truth(dataset.samples[0])
    assert truth.shape == SHAPE
    names = [dataset.vocabulary.names[i] if i != IGNORED else None for i in dict.fromkeys(truth[0].tolist())]
    return names, dataset


def test_voc_as_it_unpacks(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2012"
    write(root / "ImageSets/Segmentation/val.txt", "2007_000033\n")
    photo(root / "JPEGImages/2007_000033.jpg")
    photo(root / "JPEGImages/2007_000042.jpg")
    labels(root / "SegmentationClass/2007_000033.png", 0, 1, 20, 255)
    labels(root / "SegmentationClass/2007_000042.png", 3)
    names, dataset = found("voc21", tmp_path)
    assert names == ["background", "aeroplane", "tv monitor", None]
    assert [sample.name for sample in dataset.samples] == ["2007_000033"]
    assert dataset.extent == "subset"
    for name in ("voc20", "pas-20"):
        for folder in (tmp_path, tmp_path / "VOCdevkit", root):
            assert found(name, folder)[0] == [None, "aeroplane", "tv monitor"]


def encode(mask):
    """Compressed run lengths, by COCO's rule."""
    flat = mask.T.ravel()
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    runs = [0, *runs] if flat[0] else runs
    text = ""
    for index, run in enumerate(runs):
        value, more = run - (runs[index - 2] if index > 2 else 0), True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            text += chr(48 + (digit | 32 * more))
    return text


def test_run_lengths_are_decoded():
    random = np.random.default_rng(0)
    for _ in range(20):
        mask = random.random((30, 50)) < random.choice([0.001, 0.1, 0.5, 0.999])
        np.testing.assert_array_equal(decode_rle(encode(mask), 30, 50), mask)
    # by hand: 4 outside, 3 inside, 2 outside, down the columns of a 3x3 mask
    np.testing.assert_array_equal(decode_rle("432", 3, 3), [[0, 0, 1], [0, 1, 0], [0, 1, 0]])
    with pytest.raises(ValueError, match="runs fill 9 px, expected 4x4"):
        decode_rle("432", 4, 4)


def test_the_59_context_classes_are_those_of_the_459():
    """The converters' numbers are alphabetical, ours are not: names decide."""
    of_459, of_59 = load_vocabulary("context459").names, load_vocabulary("context59").names
    layout = benchmarks()["context59"].layouts[1]
    assert {of_59[layout.values[i]] for i in CONTEXT_IDS} == set(of_59)
    assert all(of_459[i - 1] == of_59[layout.values[i]] for i in CONTEXT_IDS)


def context_masks(path):
    left = np.zeros(SHAPE, bool)
    left[:, :4] = True
    masks = [(2, left), (440, np.roll(left, 4, axis=1))]  # aeroplane, wall; the rest is background
    write(
        path,
        json.dumps(
            {
                "images": [
                    {"image_id": 7, "file_name": "2008_000002.jpg", "height": 8, "width": 12, "phase": "val"},
                    {
                        "image_id": 8,
                        "file_name": "2008_000003.jpg",
                        "height": 8,
                        "width": 12,
                        "phase": "train",
                    },
                ],
                "annos_segmentation": [
                    {"image_id": 7, "category_id": i, "segmentation": {"counts": encode(m), "size": SHAPE}}
                    for i, m in masks
                ],
            }
        ),
    )


def test_context_masks_and_mmsegs_pngs_say_the_same(tmp_path):
    official, converted = tmp_path / "a/VOCdevkit/VOC2010", tmp_path / "b/VOCdevkit/VOC2010"
    context_masks(official / "trainval_merged.json")
    rank = [0, *CONTEXT_IDS].index
    write(converted / "ImageSets/SegmentationContext/val.txt", "2008_000002\n")
    labels(converted / "SegmentationClassContext/2008_000002.png", rank(2), rank(440), 0)
    wall = load_vocabulary("context459").names[440 - 1]
    for root in (official, converted):
        photo(root / "JPEGImages/2008_000002.jpg")
        names, dataset = found("context60", root.parents[1])
        assert names == ["aeroplane", wall, "background"]
        assert [sample.name for sample in dataset.samples] == ["2008_000002"]
        assert found("context59", root.parents[1])[0] == ["aeroplane", wall, None]


def test_context_by_cat_segs_converters(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2010"
    photo(root / "JPEGImages/2008_000002.jpg")
    labels(root / "annotations_detectron2/pc59_val/2008_000002.png", 0, 58, 255)
    assert found("pc-59", tmp_path)[0] == ["aeroplane", "wood", None]
    labels(root / "annotations_detectron2/pc459_val/2008_000002.tif", 0, 458, 65535, kind=np.uint16)
    names = load_vocabulary("context459").names
    assert found("pc-459", tmp_path)[0] == [names[0], names[458], None]


def test_context459_as_it_unpacks(tmp_path):
    root = tmp_path / "VOCdevkit/VOC2010"
    photo(root / "JPEGImages/2008_000002.jpg")
    write(root / "pascalcontext_val.txt", "2008_000002\n")
    (root / "trainval").mkdir()
    savemat(root / "trainval/2008_000002.mat", {"LabelMap": np.full(SHAPE, 459, np.uint16)})
    assert found("pc-459", tmp_path)[0] == [load_vocabulary("context459").names[458]]


@pytest.mark.parametrize("place", ["annotations", "stuffthingmaps"])
def test_coco_as_it_unpacks(tmp_path, place):
    photo(tmp_path / ("images/val2017" if place == "annotations" else "val2017") / "000000000139.jpg")
    labels(tmp_path / place / "val2017/000000000139.png", 0, 89, 91, 181, 255)
    assert found("coco-stuff", tmp_path)[0] == ["person", "toothbrush", "banner", "wood", None]
    assert found("coco-object", tmp_path)[0] == ["person", "toothbrush", "background"]


def test_coco_by_mmsegs_and_groupvits_converters(tmp_path):
    photo(tmp_path / "images/val2017/000000000139.jpg")
    labels(tmp_path / "annotations/val2017/000000000139.png", 0, 181)
    labels(tmp_path / "annotations/val2017/000000000139_labelTrainIds.png", 1, 170)
    labels(tmp_path / "annotations/val2017/000000000139_instanceTrainIds.png", 2, 80, 0)
    assert found("coco-stuff", tmp_path)[0] == ["bicycle", "wood"]
    assert found("coco-object", tmp_path)[0] == ["bicycle", "toothbrush", "background"]


def test_all_171_stuff_classes_have_a_pixel_value():
    assert sorted(set(stuff_pixels().values())) == list(range(-1, 171))


@pytest.mark.parametrize(("kind", "values"), [("labelIds", (7, 33, 0, 255)), ("labelTrainIds", (0, 18, 255))])
def test_cityscapes(tmp_path, kind, values):
    photo(tmp_path / "leftImg8bit/val/lindau/lindau_000000_000019_leftImg8bit.png")
    labels(tmp_path / f"gtFine/val/lindau/lindau_000000_000019_gtFine_{kind}.png", *values)
    names, dataset = found("cityscapes", tmp_path)
    assert names == ["road", "bicycle", None]
    assert dataset.samples[0].name == "lindau/lindau_000000_000019"


def test_ade20k(tmp_path):
    root = tmp_path / "ADEChallengeData2016"
    photo(root / "images/validation/ADE_val_00000001.jpg")
    labels(root / "annotations/validation/ADE_val_00000001.png", 0, 1, 150)
    for name in ("ade20k", "a-150"):
        assert found(name, tmp_path)[0] == [None, "wall", "flag"]


def test_full_ade20k_by_mask2formers_converter(tmp_path):
    root = tmp_path / "ADE20K_2021_17_01"
    photo(root / "images_detectron2/validation/ADE_val_00000001.jpg")
    labels(root / "annotations_detectron2/validation/ADE_val_00000001.tif", 0, 846, 65535, kind=np.uint16)
    names = load_vocabulary("ade847").names
    assert found("a-847", tmp_path)[0] == [names[0], names[846], None]


@pytest.mark.parametrize("name", list(benchmarks()))
def test_a_wrong_folder_is_told_what_is_missing_and_where_to_get_it(tmp_path, name):
    (tmp_path / "holiday").mkdir()
    with pytest.raises(DataError, match=rf"no {name} in it: expected .*, found holiday; get it from .*http"):
        open_benchmark(name, tmp_path)


def test_missing_photos_are_counted_and_the_first_is_named(tmp_path):
    labels(tmp_path / "ADEChallengeData2016/annotations/validation/ADE_val_00000001.png", 1)
    with pytest.raises(
        DataError, match=r"1 of 1 photos are missing, the first is .*ADE_val_00000001.jpg; .*http"
    ):
        open_benchmark("ade20k", tmp_path)


def test_some_photos_of_a_benchmark_in_a_folder(tmp_path):
    photo(tmp_path / "images/a.png")
    labels(tmp_path / "labels/a.png", 0, 150)
    names, dataset = found("ade20k", tmp_path)
    assert names == [None, "flag"]
    assert dataset.extent == "subset"


def test_a_folder_with_names(stripes):
    dataset = open_folder(stripes)
    assert len(dataset.samples) == 11
    assert dataset.vocabulary.names == ("red", "green", "blue")
    assert dataset.truth(dataset.samples[0])[0, 0] == IGNORED
    (stripes / "names.txt").write_text("background\nred|crimson\ngreen\n", encoding="utf-8")
    assert open_folder(stripes).vocabulary.classes == (("red", "crimson"), ("green",))
    assert open_folder(stripes).vocabulary.background


def test_a_digest_tells_any_change(stripes):
    before = open_folder(stripes).digest()
    assert open_folder(stripes).digest() == before
    assert open_folder(stripes, reduce_zero_label=True).digest() != before
    labels(stripes / "labels/0.png", 1)
    photo(stripes / "images/0.png")
    assert open_folder(stripes).digest() != before


def refuse(message, *arguments, **options):
    with pytest.raises((DataError, LabelError), match=message):
        open_folder(*arguments, **options)


def test_a_folder_that_does_not_fit_is_refused(stripes, tmp_path):
    refuse("no such folder", tmp_path / "nowhere")
    refuse("not a folder", stripes / "names.txt")
    with pytest.raises(ClassesError, match=r"words\.txt: cannot be read: No such file"):
        open_folder(stripes, "@words.txt")
    (tmp_path / "empty").mkdir()
    refuse("no labels/.*.png in it", tmp_path / "empty", "voc21")
    (stripes / "images/3.png").unlink()
    refuse("1 of 11 photos are missing, the first is that of 3.png; .*same name in images/", stripes)
    Image.new("RGB", (5, 5)).save(stripes / "images/3.png")
    refuse(r"3.png is 5x5 px, its labels are 60x43 px; they must have the same size", stripes)


def test_labels_out_of_range_and_pictures_are_refused(stripes):
    (stripes / "names.txt").write_text("red\ngreen\n", encoding="utf-8")
    refuse(r"label 2 is out of range: the 2 classes have labels 0 to 1, and 255 .*--ignore", stripes)
    refuse(r"label 255 is out of range: .*, and 2 means nothing; .*--ignore", stripes, ignore=2)
    Image.new("RGB", (60, 40)).save(stripes / "labels/0.png")
    refuse("expected an indexed or grey PNG", stripes)
