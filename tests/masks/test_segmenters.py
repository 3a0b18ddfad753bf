"""Segmenters as a source: merging against a loop over pixels, and the whole command on tiny networks."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import save_file

from ovsdino.cli import main
from ovsdino.masks.errors import MaskError
from ovsdino.masks.store.shards import MaskReader
from ovsdino.masks.teachers.agreement import (
    Opinions,
    SetRules,
    lay_truth,
    merge,
    name_regions,
    name_riders,
    room_for,
    vote,
)
from ovsdino.masks.teachers.concepts import FIRST, OTHER, UNKNOWN, Concept, Concepts, read_concepts
from ovsdino.masks.teachers.label_regions import BoxedWord, photo_masks
from ovsdino.masks.teachers.segmenters import read_truth
from ovsdino.masks.teachers.tflite import TEACHERS, TfliteSegmenter
from ovsdino.masks.teachers.views import label_in_views
from ovsdino.masks.teachers.word_boxes import NAME, NamedBox, WordBoxes, grid
from ovsdino.network.checkpoint import CheckpointError
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.files.labeled_folder import LabelError

ROOT = Path(__file__).resolve().parents[2]
CONCEPTS = ROOT / "recipes" / "nano" / "concepts.json"
sys.path.insert(0, str(Path(__file__).parent))
from tflite_files import labels_of_brightest_channel, negative  # noqa: E402 - it lies beside this file


@pytest.fixture(scope="module")
def lists(tmp_path_factory):
    """ImageNet's names, and two LVIS categories."""
    folder = tmp_path_factory.mktemp("teachers")
    names = ["background", *(f"thing {number}, Res {number}, res nova" for number in range(1000))]
    (folder / "imagenet_labels.txt").write_text("\n".join(names))
    lvis = [{"synonyms": ["bow_(decorative_ribbons)", "ribbon"]}, {"synonyms": ["cat", "feline"]}]
    (folder / "lvis.json").write_text(json.dumps(lvis))
    return folder


@pytest.fixture(scope="module")
def concepts(lists):
    return read_concepts(CONCEPTS, lists / "imagenet_labels.txt", lists / "lvis.json")


def test_concepts_join_the_lists(concepts, lists):
    assert concepts[concepts.number("voc", 8)].names == ("cat", "kitty")
    assert len(concepts.imagenet) == 1000
    assert concepts[concepts.imagenet[5]].names == ("thing 5", "res 5", "res nova")
    assert concepts.concepts[-1].names == ("bow", "ribbon")  # the second one is a cat, which there is
    assert concepts.wider()["thing 281"] == "cat"
    assert "cat" in concepts.closed
    assert "thing 5" not in concepts.closed
    assert concepts.synonyms()["cat"] == ("cat", "kitty")
    with pytest.raises(MaskError, match=r"none.txt: cannot be read"):
        read_concepts(CONCEPTS, lists / "none.txt", None)


def slow_merge(ade, voc, voc_float, street, table, alone):
    """The rule of `merge` for one pixel, case by case."""
    region = table["ade"].get(ade, OTHER)
    label = region
    if voc == 0 and region in (table["voc"][7], table["voc"][15]):
        label = UNKNOWN  # a car or a person that VOC's segmenter denies
    if voc > 0:
        label = table["voc"].get(voc, UNKNOWN)
        if voc != voc_float and region != label:
            kindred = {9: 31, 11: 16, 16: 18, 18: 31}.get(voc)
            label = region if kindred and region == table["ade"].get(kindred) else UNKNOWN
    if street is None:
        return label
    named = table["cityscapes"].get(street, UNKNOWN)
    if alone:
        return named
    return named if named == label or label in (UNKNOWN, OTHER) else label


@pytest.mark.parametrize("cityscapes", ["no", "agreed", "instead"])
def test_segmenters_are_merged_as_a_loop_over_pixels_does(concepts, cityscapes):
    random = np.random.default_rng(0)
    ade = random.choice([0, 1, 13, 16, 21, 31, 3], (40, 40)).astype(np.uint8)
    voc = random.choice([0, 0, 7, 9, 11, 15, 8], (40, 40)).astype(np.uint8)
    voc_float = np.where(random.random((40, 40)) < 0.6, voc, random.choice([0, 7, 12], (40, 40))).astype(
        np.uint8
    )
    street = random.choice([0, 2, 11, 13], (40, 40)).astype(np.uint8)
    said = Opinions(ade=ade, voc=voc, voc_float=voc_float, cityscapes=None if cityscapes == "no" else street)
    merged = merge(said, concepts, SetRules(cityscapes=cityscapes))
    table = {name: concepts.table(name) for name in ("ade", "voc", "cityscapes")}
    for row, column in np.ndindex(40, 40):
        expected = slow_merge(
            ade[row, column],
            voc[row, column],
            voc_float[row, column],
            None if cityscapes == "no" else street[row, column],
            table,
            cityscapes == "instead",
        )
        assert merged[row, column] == expected


def test_true_masks_lie_above_the_segmenters(concepts):
    cat, dog, wall = concepts.number("voc", 8), concepts.number("voc", 12), concepts.number("ade", 1)
    merged = np.array([[wall, cat, cat, dog, wall]], np.uint16)
    truth = np.array([[0, 0, 8, 255, 12]], np.uint8)
    assert lay_truth(merged, truth, concepts).tolist() == [[wall, OTHER, cat, UNKNOWN, dog]]


def test_a_person_above_what_is_ridden_is_a_rider(concepts):
    person, horse, rider = (
        concepts.number("voc", 15),
        concepts.number("voc", 13),
        concepts.number("cityscapes", 12),
    )
    labels = np.full((40, 40), OTHER, np.uint16)
    labels[4:16, 10:20] = person
    labels[16:32, 8:28] = horse
    labels[20:38, 36:40] = person  # stands apart
    named = name_riders(labels, concepts)
    assert (named[4:16, 10:20] == rider).all()
    assert (named[20:38, 36:40] == person).all()
    assert (name_riders(labels[::-1], concepts) == labels[::-1]).sum() >= 1480  # below it nobody rides
    assert (named == horse).sum() == 16 * 20


def test_votes_are_those_of_the_boxes_over_a_pixel():
    boxes = [NamedBox((0, 0, 1, 1), 3, 0.4), NamedBox((0.5, 0, 1, 1), 3, 0.8)]
    assert vote((4, 10), boxes)[0].tolist() == [False] * 5 + [True] * 5  # 0.4; (0.4 + 0.8) / 2


def test_a_finer_word_takes_its_parents_mask(concepts):
    cat, tabby = concepts.number("voc", 8), concepts.imagenet[281]
    labels = np.full((20, 20), OTHER, np.uint16)
    labels[5:15, 5:15] = cat
    named, left_over = name_regions(labels, [NamedBox((0, 0, 1, 1), 281, 0.9)], concepts, alone=False)
    assert ((named == tabby) == (labels == cat)).all()
    assert left_over == []


def test_a_word_that_finds_no_room_stays_a_box_and_casts_doubt(concepts):
    building, wall = concepts.number("ade", 2), concepts.number("ade", 1)
    labels = np.full((20, 20), wall, np.uint16)
    labels[:10] = building
    boxes = [NamedBox((0, 0, 0.5, 1), 437, 0.8)]
    named, left_over = name_regions(labels, boxes, concepts, alone=True)
    assert left_over == [BoxedWord(concepts.imagenet[437], (0, 0, 0.5, 1), 0.8)]
    assert (named[:10, :10] == UNKNOWN).all()
    assert (named[:10, 10:] == building).all()
    assert (named[10:] == wall).all()
    named, left_over = name_regions(labels, boxes, concepts, alone=False)
    assert len(left_over) == 1
    assert (named == labels).all()  # among other things the word may be a small one


def test_a_photo_of_one_thing_gives_it_more_room(concepts):
    table, person = concepts.number("voc", 11), concepts.number("voc", 15)
    labels = np.full((30, 30), table, np.uint16)
    labels[:, 20:] = person
    number = concepts.imagenet[937]
    assert not room_for(labels, number, concepts, alone=False).any()
    assert (room_for(labels, number, concepts, alone=True)[3:-3, 3:17]).all()
    assert not room_for(labels, number, concepts, alone=True)[:, 20:].any()


def test_a_label_map_becomes_masks_that_part_the_photo(concepts):
    twins = Concepts(
        (Concept(("table",), ade=1), Concept(("cat",), voc=8), Concept(("table", "desk"), voc=9)), ()
    )
    labels = np.random.default_rng(0).integers(0, 5, (9, 7)).astype(np.uint16)
    made = photo_masks(
        "a.jpg", labels, words=[BoxedWord(FIRST + 1, (0.0, 0.5, 1.0, 1.0), 0.7)], concepts=twins
    )
    masks = {region.noun: region.rle.decode() for region in made.regions if region.rle}
    np.testing.assert_array_equal(masks["table"], (labels == FIRST) | (labels == FIRST + 2))
    np.testing.assert_array_equal(masks["cat"], labels == FIRST + 1)
    np.testing.assert_array_equal(made.ignore.decode(), labels == UNKNOWN)
    weak = next(region for region in made.regions if region.rle is None)
    assert (weak.noun, weak.box, weak.score) == ("cat", (0.0, 4.5, 7.0, 9.0), 0.7)
    assert (made.exclusive, made.closed, made.absent) == (True, ("table", "cat"), ())
    for noun, mask in masks.items():
        left, top, right, bottom = (int(v) for v in next(r for r in made.regions if r.noun == noun).box)
        rows, columns = np.nonzero(mask)
        assert (left, top, right, bottom) == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


# TFLite


@pytest.fixture(scope="module")
def teachers(lists):
    """Four tiny networks under the teachers' names."""
    for teacher in TEACHERS.values():
        (lists / teacher.file).write_bytes(
            negative(16) if teacher.floating else labels_of_brightest_channel(16)
        )
    return lists


@pytest.mark.parametrize("floating", [False, True])
def test_a_tflite_segmenter_labels_pixels(tmp_path, floating):
    (tmp_path / "a.tflite").write_bytes((negative if floating else labels_of_brightest_channel)(12))
    segmenter = TfliteSegmenter(tmp_path / "a.tflite", floating=floating)
    photo = np.random.default_rng(0).integers(0, 256, (12, 12, 3), dtype=np.uint8)
    expected = photo.argmin(-1) if floating else photo.argmax(-1)
    np.testing.assert_array_equal(segmenter(photo), expected)
    assert segmenter(photo[:7, :5]).shape == (7, 5)


def test_a_missing_or_broken_segmenter_is_named(tmp_path):
    with pytest.raises(MaskError, match=r"a.tflite: no such file; --teachers wants"):
        TfliteSegmenter(tmp_path / "a.tflite", floating=False)
    (tmp_path / "a.tflite").write_bytes(b"no network")
    with pytest.raises(MaskError, match=r"a.tflite: no TFLite network"):
        TfliteSegmenter(tmp_path / "a.tflite", floating=False)


@pytest.fixture(scope="module")
def classifier(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vit") / "vit.safetensors"
    state = timm.create_model(NAME).state_dict()
    state["head.weight"] *= 20  # as sure as a trained one
    save_file(state, file)
    return file


def test_boxes_are_named_as_the_network_names_their_crops(classifier, photos):
    photo = load_photo(photos / "a.jpg")
    named = WordBoxes(classifier)(photo, minimum=0.0)
    assert [entry.box for entry in named] == [tuple(round(v, 3) for v in box) for box in grid()]
    model = timm.create_model(NAME).eval()
    from safetensors.torch import load_file

    model.load_state_dict(load_file(classifier))
    left, top, right, bottom = (v * side for v, side in zip(grid()[4], (48, 40, 48, 40), strict=True))
    crop = Image.fromarray(photo).resize(
        (224, 224), Image.Resampling.BILINEAR, box=(left, top, right, bottom)
    )
    pixels = torch.from_numpy(np.array(crop)).permute(2, 0, 1)[None].float() / 127.5 - 1
    with torch.inference_mode():
        probability = model(pixels).softmax(-1)[0]
    assert named[4].label == int(probability.argmax())
    assert named[4].probability == pytest.approx(float(probability.max()), abs=0.02)  # bfloat16
    assert named[4].probability > 0.05
    save_file({"weight": torch.zeros(1)}, classifier.with_name("other.safetensors"))
    with pytest.raises(MaskError, match=rf"not {NAME}"):
        WordBoxes(classifier.with_name("other.safetensors"))
    state = load_file(classifier)
    state["head.bias"][3] = float("inf")
    save_file(state, classifier.with_name("broken.safetensors"))
    with pytest.raises(CheckpointError, match=r"head.bias holds 1 values that are not finite"):
        WordBoxes(classifier.with_name("broken.safetensors"))


# The command


@pytest.fixture
def arguments(teachers, tmp_path, write_captions):
    """Photos of one colour each: red is ADE20K's and VOC's label 0, green 1, blue 2."""
    folder = tmp_path / "sets"
    for name, colour in {"coco/green.png": (0, 200, 30), "voc/images/blue.png": (0, 30, 200)}.items():
        (folder / name).parent.mkdir(parents=True)
        Image.new("RGB", (24, 16), colour).save(folder / name)
    truth = np.zeros((16, 24), np.uint8)
    truth[4:8, 4:12] = 8
    truth[8, 4:12] = 255
    (folder / "voc" / "labels").mkdir()
    Image.fromarray(truth).save(folder / "voc" / "labels" / "blue.png")
    said = {"coco/green.png": ["a ribbon and a boat", "two ribbons", "a horse"]}
    given = {
        "source": "segmenters",
        "photos": folder,
        "captions": write_captions(tmp_path / "captions.json", said),
        "out": tmp_path / "masks",
        "teachers": teachers,
        "concepts": CONCEPTS,
        "lvis": teachers / "lvis.json",
        "device": "cpu",
    }
    return {f"--{name}": str(value) for name, value in given.items()}


def run(arguments):
    return CliRunner().invoke(main, ["pseudo-masks", *(word for pair in arguments.items() for word in pair)])


def test_the_command_makes_shards_of_the_segmenters_labels(arguments):
    result = run(arguments)
    assert result.exit_code == 0, result.output
    out = Path(arguments["--out"])
    green, blue = MaskReader(out)
    assert (green.image, blue.image) == ("coco/green.png", "voc/images/blue.png")  # labels/ are no photos
    # Green: ADE20K says wall, VOC's sharper one airplane, VOC's other one (the darkest channel) nothing.
    assert [(r.noun, r.rle, r.box) for r in green.regions] == [("bow", None, (0, 0, 24, 16))]
    assert green.ignore.decode().all()
    assert (green.source, green.exclusive) == ("segmenters", True)
    # Blue: the true cat; unknown are its edge, and what one of VOC's segmenters alone took for a bicycle.
    assert [r.noun for r in blue.regions] == ["cat"]
    assert blue.regions[0].box == (4, 4, 12, 8)
    assert blue.ignore.decode().sum() == 16 * 24 - 4 * 8
    assert json.loads((out / "wider.json").read_text())["thing 281"] == "cat"
    assert json.loads((out / "synonyms.json").read_text())["bow"] == ["bow", "ribbon"]


def test_a_set_of_one_photo_a_class_must_have_all_classes(arguments):
    folder = Path(arguments["--photos"]) / "imagenet"
    folder.mkdir()
    Image.new("RGB", (8, 8)).save(folder / "n01440764_tench.png")
    result = run(arguments)
    assert result.exit_code == 2
    assert "imagenet/ has 1 photos, expected one of each of 1000 classes" in result.stderr
    assert not Path(arguments["--out"]).exists()


def test_an_unknown_rule_is_refused(arguments, tmp_path):
    raw = json.loads(CONCEPTS.read_text())
    raw["sets"]["voc"] = {"true_masks": True}
    (tmp_path / "concepts.json").write_text(json.dumps(raw))
    result = run({**arguments, "--concepts": str(tmp_path / "concepts.json")})
    assert result.exit_code == 2
    assert "sets: voc: unknown key true_masks" in result.stderr


def test_true_masks_that_do_not_fit_are_refused(tmp_path):
    file = tmp_path / "a.png"
    Image.fromarray(np.full((4, 6), 8, np.uint8)).save(file)
    assert read_truth(file, (4, 6)).tolist() == [[8] * 6] * 4
    with pytest.raises(MaskError, match=r"\(4, 6\) with labels up to 8, expected the photo's \(6, 4\)"):
        read_truth(file, (6, 4))
    Image.fromarray(np.full((4, 6), 300, np.uint16)).save(file)
    with pytest.raises(MaskError, match="with labels up to 300, expected"):
        read_truth(file, (4, 6))
    file.write_bytes(b"no picture")
    with pytest.raises(LabelError, match=r"a\.png: broken label file"):
        read_truth(file, (4, 6))


def test_the_views_of_a_photo_vote_as_a_loop_over_pixels_does():
    random = np.random.default_rng(0)
    photo = random.integers(0, 4, (9, 14, 3), dtype=np.uint8)
    seen = []

    def network(view):  # says something else of each view
        seen.append(view.shape[:2])
        return (view[..., 0] + len(seen) * view[..., 1]) % 5

    labels = label_in_views(network, photo)
    assert seen == [(9, 14)] + [(7, 10)] * 4  # 0.75 of each side
    places = [(0, 0, 9, 14), *((top, left, 7, 10) for top in (0, 2) for left in (0, 4))]
    for row, column in np.ndindex(9, 14):
        votes = Counter()
        for number, (top, left, height, width) in enumerate(places, start=1):
            if top <= row < top + height and left <= column < left + width:
                votes[(photo[row, column, 0] + number * photo[row, column, 1]) % 5] += 1
        whole = (photo[row, column, 0] + photo[row, column, 1]) % 5
        best = {label for label, count in votes.items() if count == max(votes.values())}
        assert labels[row, column] == (whole if whole in best else min(best))


def test_a_photo_of_one_pixel_has_its_views():
    assert label_in_views(lambda view: view[..., 0], np.full((1, 1, 3), 7, np.uint8)).tolist() == [[7]]
