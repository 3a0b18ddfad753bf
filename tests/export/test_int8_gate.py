"""mIoU before and after INT8 on labelled photos: how they are found, what is counted, what is refused."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_export import parity
from ovsdino_export.cli import export
from ovsdino_export.parity import THRESHOLDS, ParityError
from ovsdino_export.precision.int8_gate import find_sets, measure, require_miou
from ovsdino_runtime.base.errors import OvsdinoError


def label(folder, name, values, suffix=".jpg"):
    """Write a grey photo and its labels."""
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*values.shape, 3), 90, np.uint8)).save(folder / "images" / f"{name}{suffix}")
    Image.fromarray(values.astype(np.uint8)).save(folder / "labels" / f"{name}.png")


class Painter:
    """Labels every photo the same."""

    def __init__(self, labels):
        self.labels = labels

    def __call__(self, _photo, _vocabulary, *, background):
        assert background == "none"  # the names have no background
        return self


def test_a_folder_may_hold_several_sets(tmp_path):
    for name, words, shape in (("street", "car\nroad\n", (2, 3)), ("park", "background\ntree\n", (4, 2))):
        label(tmp_path / name, "a", np.ones(shape))
        (tmp_path / name / "names.txt").write_text(words)
    (tmp_path / "notes").mkdir()
    park, street = find_sets(tmp_path)
    assert (park.name, park.vocabulary.names) == ("park", ("background", "tree"))
    assert (street.name, street.vocabulary.names) == ("street", ("car", "road"))
    assert find_sets(tmp_path / "park") == (park,)
    (tmp_path / "park/names.txt").unlink()
    with pytest.raises(OvsdinoError, match=r"park/names.txt: no such file; write one class a line"):
        find_sets(tmp_path)


def test_a_folder_with_names_and_its_miou(tmp_path):
    label(tmp_path, "a", np.array([[0, 0], [1, 255]]))
    (tmp_path / "names.txt").write_text("cat\nsky\n")
    (own,) = find_sets(tmp_path)
    assert own.vocabulary.names == ("cat", "sky")
    predicted = np.array([[0, 1], [1, 1]], np.uint16)
    assert measure(Painter(predicted), own) == pytest.approx((1 / 2 + 1 / 2) / 2)  # by hand
    assert measure(Painter(np.array([[0, 0], [1, 0]], np.uint16)), own) == 1


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder / "nowhere", "no such folder"),
        (lambda folder: folder, "no labelled photos in it; expected images/"),
        (lambda folder: (folder / "names.txt").write_text("cat") and folder, "no labels/.*png in it"),
    ],
)
def test_what_is_no_labelled_folder_is_refused(tmp_path, spoil, message):
    with pytest.raises(OvsdinoError, match=message):
        find_sets(spoil(tmp_path))


def test_a_drop_of_miou_is_refused():
    require_miou(40.0, 39.1)
    require_miou(40.0, float(np.float64(41)))
    with pytest.raises(
        ParityError, match=r"INT8 has 38\.50 mIoU, FP32 40\.00: a drop of 1\.50, at most 1\.0"
    ):
        require_miou(40.0, 38.5)


def test_the_command_measures_and_refuses(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(THRESHOLDS, "vision.int8", replace(THRESHOLDS["vision.int8"], label_agreement=0.5))
    monkeypatch.setattr(parity, "MAX_INT8_DROP", -101)  # nothing can gain that much
    label(tmp_path / "data", "a", np.random.default_rng(0).integers(0, 2, (64, 64)))
    (tmp_path / "data" / "names.txt").write_text("cat\nsky\n")
    options: list[str | Path] = [
        "--model",
        "tiny",
        "--kernels",
        "none",
        "--out",
        tmp_path / "out",
        "--photos",
        weights / "photos",
    ]
    options += ["--checkpoint", weights / "tiny.safetensors", "--int8-data", tmp_path / "data"]
    options += ["--text-checkpoint", weights / "text.safetensors", "--int8"]
    result = CliRunner().invoke(export, [str(option) for option in options])
    assert "mIoU at fp32: " in result.output
    assert "mIoU at int8: " in result.output
    assert result.exit_code == 2, result.output
    assert "a drop of" in result.output.splitlines()[-1]
    assert not (tmp_path / "out").exists()


def test_labelled_photos_without_int8_are_refused(tmp_path):
    result = CliRunner().invoke(export, ["--int8-data", str(tmp_path)])
    assert result.exit_code == 2
    assert "--int8-data is for INT8: give --int8 as well" in result.output
