import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ovsdino_runtime
from ovsdino_runtime.base.errors import BundleError, ClassesError, EngineError, OptionError, PhotoError
from ovsdino_runtime.bundle import models
from ovsdino_runtime.bundle.bundle import Head
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.geometry.preprocess import resize_bilinear
from ovsdino_runtime.pipelines import host_stages
from ovsdino_runtime.segmenter import Segmenter, single_class_threshold
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary

COLOURS = "red, green, blue, yellow|white, black"


@pytest.fixture
def segmenter(shared_bundle):
    return Segmenter.load(shared_bundle.path, threads=1)


def test_the_flag_is_named(segmenter, flag):
    result = segmenter(flag, COLOURS)
    assert result.labels.shape == result.scores.shape == flag.shape[:2]
    assert result.labels.dtype == np.uint16
    assert result.classes == ("red", "green", "blue", "yellow", "black")
    expected = np.repeat([0, 1, 2], 50)
    interior = np.abs(np.arange(150)[:, None] - [50, 100]).min(axis=1) > 12  # a patch is 11 px of the photo
    assert (result.labels[:, interior] == expected[interior]).all()
    assert {"red", "green", "blue"} <= set(result.coverage())
    assert sum(result.coverage().values()) == pytest.approx(1)
    assert list(result.timings) == ["decode", "resize", "vision", "text", "merge"]
    assert result.model == "tiny"


def test_all_forms_of_a_photo_give_the_same(segmenter, flag, flag_file):
    expected = segmenter(flag, COLOURS).labels
    for form in (flag_file, str(flag_file), Image.fromarray(flag), Image.open(flag_file)):
        np.testing.assert_array_equal(segmenter(form, COLOURS).labels, expected)


def test_all_forms_of_classes_give_the_same(segmenter, flag):
    expected = segmenter(flag, COLOURS).labels
    for form in (["red", "green", "blue", "yellow|white", "black"], read_classes(COLOURS)):
        np.testing.assert_array_equal(segmenter(flag, form).labels, expected)


def test_scores_are_the_confidence_in_the_label(segmenter):
    red = np.zeros((70, 70, 3), np.uint8)
    red[:, :, 0] = 255
    result = segmenter(red, "red, blue")
    # cosine 1: sigmoid(10 - 2.5); FP16 has steps of 5e-4 there
    np.testing.assert_allclose(result.scores.astype(float), 1 / (1 + np.exp(-7.5)), atol=5e-4)


def test_another_short_side(shared_bundle, flag):
    limits, window = shared_bundle.manifest.preprocessing, shared_bundle.manifest.windows.size
    small = Segmenter.load(shared_bundle.path, threads=1)
    large = Segmenter.load(shared_bundle.path, threads=1, short_side=2 * window)
    assert min(small.pipeline.prepare(flag).resized.shape[:2]) == limits.short_side
    resized = large.pipeline.prepare(flag).resized
    assert min(resized.shape[:2]) == 2 * window
    assert len(large.pipeline.prepare(flag).windows) > len(small.pipeline.prepare(flag).windows)
    assert large(flag, COLOURS).labels.shape == flag.shape[:2]


@pytest.mark.parametrize("share", [0.5, 100])
def test_a_short_side_that_cannot_be(shared_bundle, share):
    limits, window = shared_bundle.manifest.preprocessing, shared_bundle.manifest.windows.size
    wanted = int(share * window)
    with pytest.raises(
        BundleError, match=f"{wanted} px: expected {window}, its window, to {limits.long_side}"
    ):
        Segmenter.load(shared_bundle.path, short_side=wanted)


def test_unsure_pixels_are_background(segmenter, flag):
    plain = segmenter(flag, "red, green")
    result = segmenter(flag, "red, green", background=0.5)
    assert plain.background is None
    assert result.classes == ("background", "red", "green")
    sure = plain.scores.astype(float) >= 0.5
    near = np.abs(plain.scores.astype(float) - 0.5) < 1e-3  # rounded to FP16 after the comparison
    agree = result.labels == np.where(sure, plain.labels + 1, 0)
    assert (agree | near).all()
    assert (result.labels[:, 115:] == 0).all()
    np.testing.assert_allclose(
        result.scores[:, 140].astype(float), 1 - plain.scores[:, 140].astype(float), atol=1e-3
    )


def test_others_are_background_wherever_they_win(segmenter, flag):
    alone = segmenter(flag, "red, green, blue")
    result = segmenter(
        flag, "red", background_classes="green, pink|RED, blue"
    )  # what shares a word with a class is left out
    assert result.classes == ("background", "red")
    assert result.background_classes == ("green", "blue")
    assert result.background == 0.0  # the words alone decide
    np.testing.assert_array_equal(result.labels, np.where(alone.labels == 0, 1, 0))
    np.testing.assert_array_equal(result.scores, alone.scores)
    unsure = segmenter.segment(
        segmenter.encode(flag), "red", background_classes="green, blue", background=0.9
    )
    np.testing.assert_array_equal(unsure.labels, (alone.labels == 0) & (unsure.labels == 1))
    assert unsure.coverage().keys() <= {"background", "red"}


def test_packaged_others_leave_out_what_is_asked_for(segmenter, flag):
    result = segmenter(flag, "sky, cat", background_classes="surroundings")
    assert "grass" in result.background_classes
    assert not {"sky", "cloud"} & set(result.background_classes)
    with pytest.raises(ClassesError, match="background class 'sky': the vocabulary has no background"):
        Vocabulary((("cat",),), background_classes=(("sky",),))


def test_a_vocabulary_with_background_has_the_models_threshold(segmenter, flag):
    vocabulary = load_vocabulary("voc21")
    assert segmenter(flag, vocabulary).background == 0.5
    assert segmenter(flag, vocabulary, background=0.2).background == 0.2
    assert segmenter(flag, vocabulary).classes == vocabulary.names
    assert segmenter(flag, load_vocabulary("voc20")).background is None


@pytest.mark.parametrize("size", [(64, 64), (90, 150), (31, 17), (300, 40), (1, 1), (5, 400)])
def test_it_equals_the_slow_way(segmenter, size):
    """Every window for itself, upsampled, added up, divided, resized: with the tiny model's formula."""
    photo = np.random.default_rng(0).integers(0, 256, (size[0] // 6 + 1, size[1] // 6 + 1, 3), dtype=np.uint8)
    photo = (resize_bilinear(photo, *size) + 0.5).astype(np.uint8)
    words = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1), "white": (1, 1, 1)}
    text = np.array(list(words.values())) / 3**0.5
    prepared = segmenter.pipeline.prepare(photo)
    resized = prepared.resized
    total, count = np.zeros((*resized.shape[:2], len(words))), np.zeros((*resized.shape[:2], 1))
    for window in prepared.windows:
        box = (slice(window.top, window.top + window.height), slice(window.left, window.left + window.width))
        pixels = resize_bilinear(resized[box], 64, 64) / 127.5 - 1
        mean = pixels.reshape(8, 8, 8, 8, 3).mean(axis=(1, 3))
        cosine = mean / np.maximum(np.linalg.norm(mean, axis=2, keepdims=True), 1e-6) @ text.T
        total[box] += resize_bilinear(cosine.astype(np.float32), window.height, window.width)
        count[box] += 1
    scores = resize_bilinear((total / count).astype(np.float32), *size)
    result = segmenter(photo, list(words))
    best = np.sort(scores, axis=2)
    clear = best[:, :, -1] - best[:, :, -2] > 1e-5  # float32 in another order
    assert clear.mean() > 0.99
    np.testing.assert_array_equal(result.labels[clear], scores.argmax(axis=2)[clear])
    expected = 1 / (1 + np.exp(2.5 - 10 * best[:, :, -1]))
    np.testing.assert_allclose(result.scores.astype(float), expected, atol=1e-3)  # FP16


def test_windows_go_through_the_engine_some_at_a_time(segmenter, flag, monkeypatch):
    wide = np.tile(flag, (1, 3, 1))  # several windows
    prepared = segmenter.pipeline.prepare(wide)
    together = segmenter.pipeline.encode_windows(prepared)
    assert len(together) == len(prepared.windows) > 3
    monkeypatch.setattr(host_stages, "WINDOWS_AT_ONCE", 1)
    np.testing.assert_allclose(segmenter.pipeline.encode_windows(prepared), together, atol=1e-6)


def test_classes_are_encoded_once_for_many_photos(segmenter, flag, monkeypatch):
    segmenter(flag, "red, blue")
    monkeypatch.setattr(segmenter._text, "encode_classes", None)  # calling it would fail
    segmenter(flag, "red, blue")


def test_templates_of_the_caller(shared_bundle, flag):
    segmenter = Segmenter.load(shared_bundle.path, templates=["red {}"])
    assert segmenter.templates == ("red {}",)
    green = segmenter.encode_text(read_classes("green"))[0]
    np.testing.assert_allclose(green[:3], np.array([0, 0, -1]), atol=1e-6)  # red + green, unit length


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("nothing.png", "red"), {}, PhotoError, r"nothing\.png: no such file"),
        ((np.zeros((4, 4, 3), np.uint8), ""), {}, ClassesError, "no class is given"),
        (
            (np.zeros((4, 4, 3), np.uint8), "red"),
            {"background": 1.5},
            ClassesError,
            r"must be in 0\.\.1, got 1\.5",
        ),
        (
            (np.zeros((4, 4, 3), np.uint8), "background"),
            {"background": 0.5},
            ClassesError,
            "the only class is 'background'",
        ),
    ],
)
def test_what_is_refused(segmenter, arguments, options, error, message):
    with pytest.raises(error, match=message):
        segmenter(*arguments, **options)


def test_a_packaged_model_is_found_by_name(bundle, tmp_path, monkeypatch):
    package = tmp_path / "package"
    (package / "models").mkdir(parents=True)
    shutil.copytree(bundle.path, package / "models" / "small.ovs")
    monkeypatch.setattr(models.resources, "files", lambda _: package)
    assert find_bundle("small") == package / "models" / "small.ovs"
    with pytest.raises(
        BundleError, match=r"big: neither a packaged model nor a bundle; packaged models: small; "
    ):
        find_bundle("big")


def test_an_unknown_model_says_how_to_make_one(tmp_path):
    with pytest.raises(BundleError, match="`ovsdino-export --model NAME --out DIR` writes a bundle"):
        Segmenter.load("no-such-model")
    with pytest.raises(BundleError, match=r"a directory without bundle\.json"):
        find_bundle(tmp_path)


def test_the_package_offers_the_segmenter():
    assert ovsdino_runtime.Segmenter is Segmenter


def test_word_lists_that_take_turns_are_encoded_once(bundle, flag):
    segmenter = Segmenter.load(bundle.path, threads=1)
    encoded, encode = [], segmenter._text.encode_classes

    def noting(vocabulary, templates):
        encoded.append(vocabulary.names)
        return encode(vocabulary, templates)

    segmenter._text.encode_classes = noting
    lists = ["red, green", "blue, white"]
    for words in [*lists, *lists, *lists]:
        segmenter(flag, words)
    assert encoded == [("red", "green"), ("blue", "white")]
    for number in range(9):  # more than are kept
        segmenter(flag, f"red, word{number}")
    segmenter(flag, lists[0])
    assert encoded[-1] == ("red", "green")
    assert len(encoded) == 2 + 9 + 1


def test_one_class_alone_has_a_background(segmenter, flag):
    result = segmenter(flag, "red")
    assert (result.classes, result.background, result.single) == (("background", "red"), 0.2, True)
    np.testing.assert_array_equal(result.labels, segmenter(flag, "red", background=0.2).labels)
    assert 0 < result.coverage()["red"] < 0.6
    for background in ("none", 0.0):
        assert segmenter(flag, "red", background=background).coverage() == {"red": 1.0}
    assert segmenter(flag, "red, blue").background is None


def test_its_threshold_is_one_that_confidences_reach():
    assert single_class_threshold(Head(scale=10.0, bias=-4.0, background=0.3)) == 0.2
    assert single_class_threshold(Head(scale=1.0, bias=0.0, background=0.55)) == 0.55  # 0.27 at the least


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"inference": "whole", "short_side": 64},
            OptionError,
            "short_side=64 has no effect with",
        ),
        ({"inference": "all"}, OptionError, "inference 'all': expected one of slide, whole"),
        ({"precision": "fp8"}, OptionError, "precision 'fp8': expected one of fp32, fp16, bf16, int8"),
        ({"threads": 0}, OptionError, "threads must be a whole number in 1..512, got 0"),
        ({"threads": 2000}, OptionError, "threads must be a whole number in 1..512, got 2000"),
        ({"threads": True}, OptionError, "threads must be a whole number in 1..512, got True"),
        ({"short_side": 64.5}, OptionError, "short_side must be a whole number in 1..8192, got 64.5"),
        ({"antialias": "no"}, OptionError, "antialias must be True or False, got 'no'"),
        ({"templates": "a photo"}, ClassesError, "unknown templates 'a photo'"),
        ({"templates": ["a photo"]}, ClassesError, "template 'a photo': expected {} once"),
    ],
)
def test_options_that_are_refused(shared_bundle, changes, error, message):
    with pytest.raises(error, match=message):
        Segmenter.load(shared_bundle.path, **changes)


def test_a_string_is_one_template(shared_bundle):
    assert Segmenter.load(shared_bundle.path, templates="red {}").templates == ("red {}",)


def test_a_list_of_photos_gives_a_list_of_results(segmenter, flag, flag_file):
    results = segmenter([flag, flag_file, flag[:, ::-1]], COLOURS)
    expected = segmenter(flag, COLOURS).labels
    assert len(results) == 3
    np.testing.assert_array_equal(results[1].labels, expected)
    assert segmenter([], COLOURS) == []
    with pytest.raises(PhotoError, match="the photo is int: expected a path"):
        segmenter([flag, 3], COLOURS)


def test_it_closes_itself_after_a_with_statement(shared_bundle, flag):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        segmenter(flag, "red, blue")
    with pytest.raises(EngineError, match="the model is closed; load it again"):
        segmenter(flag, "red, green")


def test_results_say_which_weights_made_them(segmenter, shared_bundle, flag):
    digest = segmenter(flag, "red, blue").model_digest
    assert digest == shared_bundle.digest
    assert len(digest) == 64


def test_use_after_close_is_one_error(bundle):
    segmenter = Segmenter.load(bundle.path, threads=1)
    photo = np.zeros((64, 64, 3), np.uint8)
    features = segmenter.encode(photo)
    segmenter.close()
    segmenter.close()
    for use in (
        lambda: segmenter(photo, "red"),
        lambda: segmenter.encode(photo),
        lambda: segmenter.segment(features, "red, blue"),
    ):
        with pytest.raises(EngineError, match="the model is closed; load it again"):
            use()


FORK = """
import os, sys
import numpy as np
from ovsdino_runtime.segmenter import Segmenter
segmenter = Segmenter.load(sys.argv[1], threads=2)
photo = np.full((64, 96, 3), (255, 0, 0), np.uint8)
before = segmenter(photo, "red, green").labels
child = os.fork()
if not child:
    assert (segmenter(photo, "red, green").labels == before).all()
    assert segmenter(photo, "word1, word2").labels.shape == before.shape
    segmenter.close()
    sys.exit(0)
status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
assert (segmenter(photo, "red, white").labels == 0).all()
sys.exit(status)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="POSIX")
def test_a_forked_child_labels_as_its_parent_does(bundle, tmp_path):
    environment = os.environ | {
        "PYTHONPATH": str(Path(ovsdino_runtime.__file__).parents[1]),
        "OVSDINO_CACHE": str(tmp_path),
    }
    command = [sys.executable, "-W", "ignore", "-c", FORK, str(bundle.path)]
    subprocess.run(command, check=True, timeout=60, env=environment)
