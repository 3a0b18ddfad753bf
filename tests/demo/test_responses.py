import base64
import json
import os
import subprocess
import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import ClassesError, NotAPhotoError, TooLargeError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.demo import responses as module
from ovsdino_runtime.demo.responses import Responder, fit_photo, split_words
from ovsdino_runtime.demo.snippet import python_program
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.upload import UploadLimits
from tests.demo.conftest import ROOT

WORDS = ["red", "blue", "yellow|white"]


def decode(url):
    """The pixels of a data URL, by Pillow."""
    kind, _, data = url.partition(";base64,")
    image = Image.open(BytesIO(base64.b64decode(data)))
    assert kind == f"data:image/{image.format.lower()}"
    return np.asarray(image)


@pytest.mark.parametrize("background", [0, 0.6])
def test_an_answer_is_the_segmenters(tiny, flag, background):
    answer = Responder(tiny)(flag, WORDS, background)
    expected = tiny(flag, WORDS, background=background or None)
    packed = decode(answer.labels).astype(int)  # (H, W, 3)
    np.testing.assert_array_equal(packed[..., 0] + 256 * packed[..., 1], expected.labels)
    np.testing.assert_allclose(packed[..., 2] / 100, expected.scores, atol=0.0051)  # hundredths, float16
    assert answer.background == bool(background)
    assert [(entry.name, entry.share) for entry in answer.entries] == list(expected.coverage().items())
    assert [entry.score for entry in answer.entries] == [region.score for region in expected.regions()]
    assert len({entry.colour for entry in answer.entries}) == len(answer.entries) >= 2
    assert np.abs(decode(answer.photo).astype(int) - expected.photo).mean() < 10  # it is a JPEG
    assert (answer.model, answer.engine) == ("tiny", expected.engine)
    assert answer.total >= answer.image_features + answer.naming > 0


def test_the_files_are_those_of_the_command(tiny, flag):
    files = Responder(tiny)(flag, WORDS, 0.6).files
    expected = tiny(flag, WORDS, background=0.6)
    np.testing.assert_array_equal(decode(files["labels"]), expected.labels)
    about = json.loads(base64.b64decode(files["json"].partition(",")[2]))
    assert (about["photo"], tuple(about["classes"])) == ("flag.png", expected.classes)


def test_the_program_names_what_differs_from_the_defaults():
    text = python_program(
        "my.ovs",
        RuntimeOptions(short_side=576),
        photo="a'b.jpg",
        words=["cat"],
        background_classes="surroundings",
    )
    assert "Segmenter.load('my.ovs', short_side=576)" in text
    assert """segmenter("a'b.jpg", ['cat'], background_classes='surroundings')""" in text
    assert "0 is the background" in text
    compile(text, "shown", "exec")


def test_what_others_win_is_background(tiny, flag):
    answer = Responder(tiny)(flag, ["red"], 0, background_classes="green, blue")
    expected = tiny(flag, "red", background_classes="green, blue")
    assert [(entry.name, entry.share) for entry in answer.entries] == list(expected.coverage().items())
    assert {entry.name for entry in answer.entries} == {"red", "background"}
    assert answer.background


def test_labels_above_255_take_the_second_byte(tiny, flag):
    words = [*(f"word{i}" for i in range(298)), "red", "blue"]
    packed = decode(Responder(tiny)(flag, words, 0).labels)
    assert {(int(p[0]), int(p[1])) for p in packed[45, [10, 140]]} == {(298 - 256, 1), (299 - 256, 1)}


def test_more_words_do_not_look_at_the_photo_again(tiny, flag, monkeypatch):
    answers = Responder(tiny)
    first = answers(flag, WORDS, 0)
    monkeypatch.setattr(tiny.vision, "run", None)  # calling it would fail
    second = answers(flag, ["red", "black"], 0.5)
    assert (first.new, second.new) == (True, False)
    assert first.image_features == second.image_features
    assert {entry.name for entry in second.entries} <= {"background", "red", "black"}


def test_only_the_last_photos_are_kept(tiny, flag, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "KEPT", 2)
    answers = Responder(tiny)
    files = [tmp_path / f"{i}.png" for i in range(3)]
    for file in files:
        file.write_bytes(flag.read_bytes())
    assert [answers(files[i], WORDS, 0).new for i in (0, 1, 0, 2, 0, 1)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]


def test_a_file_that_changed_is_looked_at_again(tiny, flag):
    answers = Responder(tiny)
    answers(flag, WORDS, 0)
    Image.new("RGB", (70, 70), "blue").save(flag)
    again = answers(flag, WORDS, 0)
    assert again.new
    assert [entry.name for entry in again.entries] == ["blue"]


@pytest.mark.parametrize(
    ("size", "fitted"), [((90, 150), (90, 150)), ((1920, 1080), (960, 540)), ((3, 4000), (1, 960))]
)
def test_large_photos_are_brought_to_the_pages_size(size, fitted):
    assert fit_photo(np.zeros((*size, 3), np.uint8)).shape == (*fitted, 3)


@pytest.mark.parametrize(
    ("chips", "words"),
    [
        ([], []),
        (["cat", "wet floor"], ["cat", "wet floor"]),
        (["cat, dog|puppy ,, ", "grass\nsky"], ["cat", "dog|puppy", "grass", "sky"]),
        (["cat", "dog", "Cat", " wet   floor"], ["cat", "dog", "wet floor"]),
    ],
)
def test_words_are_parted_and_each_is_there_once(chips, words):
    assert split_words(chips) == words


def test_what_is_refused(tiny, flag, tmp_path):
    answers = Responder(tiny, UploadLimits(megabytes=0.001, megapixels=0.02, classes=3))
    with pytest.raises(ClassesError, match="words are text"):
        split_words([3])
    with pytest.raises(ClassesError, match="no class is given"):
        answers(flag, [], 0)
    with pytest.raises(ClassesError, match="got 4 classes: expected at most 3"):
        answers(flag, ["red", "green", "blue", "black"], 0)
    with pytest.raises(ClassesError, match=r"must be in 0\.\.1, got 7"):
        answers(flag, WORDS, 7)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no photo")
    with pytest.raises(NotAPhotoError, match="not a photo"):
        answers(bad, WORDS, 0)
    bad.write_bytes(bytes(1001))
    with pytest.raises(TooLargeError, match=r"expected at most 0\.001"):
        answers(bad, WORDS, 0)
    Image.new("1", (200, 101)).save(bad, "png")
    with pytest.raises(TooLargeError, match="megapixels"):
        answers(bad, WORDS, 0)


@pytest.mark.parametrize("background", [0, 0.6])
def test_the_program_that_is_shown_gives_the_same_labels(tiny, flag, tiny_path, tmp_path, background):
    options = RuntimeOptions(threads=1, antialias=False)
    segmenter = Segmenter.load(tiny_path, options)
    answer = Responder(segmenter, model=str(tiny_path), options=options)(flag, WORDS, background)
    done = subprocess.run(
        [sys.executable, "-c", answer.python + "import numpy; numpy.save('labels.npy', labels)"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT / "runtime"), "OVSDINO_CACHE": str(tmp_path)},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.startswith("<Segmentation 150x90")
    shown = decode(answer.labels).astype(int)
    np.testing.assert_array_equal(np.load(tmp_path / "labels.npy"), shown[..., 0] + 256 * shown[..., 1])
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.width >= 150


def test_known_words_on_a_photo_that_was_seen_run_no_graph(tmp_path, monkeypatch):
    """What makes an answer fast: neither the photo nor a word goes through a network again."""
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path))
    answers, street = Responder(Segmenter.load("nano", threads=1)), ROOT / "examples" / "street.jpg"
    words = ["road", "car", "bus", "building", "sky", "person", "tree", "grass", "sign", "pole"]
    first = answers(street, words, 0.4)
    assert first.new
    monkeypatch.setattr(OnnxRuntimeEngine, "run", None)  # calling it would fail
    for known in (words, words[1:], words[::-1]):
        assert not answers(street, known, 0.4).new
    again = answers(street, words, 0.4)
    assert (again.labels, again.entries) == (first.labels, first.entries)
    with pytest.raises(TypeError):
        answers(street, [*words, "zebra"], 0.4)  # a new word does
