"""`ovsdino pseudo-masks --source labels`: a data set's own label maps become shards."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino.cli import main
from ovsdino.masks.label_files import UNUSED, read_names
from ovsdino.masks.store.shards import MaskReader
from ovsdino_benchmarks.datasets.label_values import stuff_pixels
from ovsdino_runtime.text.vocabulary import load_vocabulary

ROOT = Path(__file__).parents[2]
NAMES = ("cat", "-", "grass", "sky")


@pytest.fixture
def folder(tmp_path):
    """Three photos, one in a folder; two have labels, in which value 1 does not occur."""
    generator = np.random.default_rng(0)
    for name in ("a.jpg", "below/b.png", "c.jpg"):
        photo, labels = tmp_path / "photos" / name, (tmp_path / "labels" / name).with_suffix(".png")
        for file in (photo, labels):
            file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 255, (6, 8, 3), np.uint8)).save(photo)
        if name != "c.jpg":
            raw = generator.choice(np.array([0, 2, 255], np.uint8), (6, 8))
            Image.fromarray(raw).save(labels)
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def run(folder: Path, **changes: str | None):
    named = {"source": "labels", "photos": folder / "photos", "out": folder / "masks"}
    named |= {"labels": folder / "labels", "names": folder / "names.txt", "sheet": 0} | changes
    arguments = [
        part for name, value in named.items() if value is not None for part in (f"--{name}", str(value))
    ]
    return CliRunner().invoke(main, ["pseudo-masks", *arguments])


def test_each_class_becomes_a_mask_and_255_is_unknown(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    reader = MaskReader(folder / "masks")
    assert reader.images == ("a.jpg", "below/b.png")
    for photo in reader:
        raw = np.asarray(Image.open((folder / "labels" / photo.image).with_suffix(".png")))
        assert (photo.height, photo.width, photo.exclusive) == (6, 8, True)
        assert photo.closed == ("cat", "grass", "sky")
        masks = {region.noun: region.rle.decode() for region in photo.regions}
        assert masks.keys() == {"cat", "grass"}
        assert np.array_equal(masks["cat"], raw == 0)
        assert np.array_equal(masks["grass"], raw == 2)
        assert np.array_equal(photo.ignore.decode(), raw == 255)
    synonyms = json.loads((folder / "masks/synonyms.json").read_text())
    assert synonyms == {"cat": ["cat"], "grass": ["grass"], "sky": ["sky"]}  # training's words, sky too


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "--source labels needs --labels DIR and --names FILE"),
        ({"labels": "nowhere"}, "--labels nowhere: no such folder"),
        ({"names": "nowhere"}, "--names nowhere: cannot be read"),
    ],
)
def test_what_is_missing_is_named(folder, changes, message):
    result = run(folder, **changes)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (folder / "masks").exists()


def test_files_that_do_not_fit_are_named(folder):
    (folder / "names.txt").write_text("cat\n-\ncat\n")
    assert "'cat' is empty or there twice" in run(folder).stderr
    (folder / "names.txt").write_text("cat\n")
    assert "labels/a.png: label 2 is out of range" in run(folder, out=folder / "one").stderr
    (folder / "names.txt").write_text("\n".join(NAMES))
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(folder / "labels/a.png")
    assert "a.jpg is 8x6 px, its labels are 4x4 px" in run(folder, out=folder / "two").stderr


def test_coco_stuff_s_list_is_the_benchmark_s():
    names = read_names(ROOT / "recipes/dinov3seg/coco_stuff_names.txt")
    known = load_vocabulary("coco_stuff171").classes
    found = {value: name for value, name in enumerate(names) if name != UNUSED}
    assert found == {value: known[label][0] for value, label in stuff_pixels().items() if value != 255}
