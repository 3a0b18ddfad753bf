"""`ovsdino pseudo-masks` as a user runs it: what it writes, goes on with, and refuses."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ovsdino.cli import main
from ovsdino.masks.store.contact_sheet import CELL, TEXT, draw_sheet
from ovsdino.masks.store.shards import MaskReader
from ovsdino.network.config import NANO
from ovsdino.training.data.dataset import MaskDataset
from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.targets.word_bank import WordBank


@pytest.fixture
def arguments(detector, sam_file, nltk_data, photos, captions, tmp_path):
    """A command line that works."""
    given = {
        "photos": photos,
        "captions": captions,
        "out": tmp_path / "masks",
        "nltk-data": nltk_data,
        "detector": detector,
        "sam": sam_file,
        "min-captions": 1,
        "box-threshold": 0.3,
        "text-threshold": 0.1,
        "device": "cpu",
        "shard-size": 2,
    }
    return {f"--{name}": str(value) for name, value in given.items()}


def run(arguments, **changes):
    named = {f"--{name.replace('_', '-')}": str(value) for name, value in changes.items()}
    return CliRunner().invoke(
        main, ["pseudo-masks", *(w for pair in (arguments | named).items() for w in pair)]
    )


def files(folder):
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_four_photos_from_captions_to_shards(arguments):
    result = run(arguments)
    assert result.exit_code == 0, result.output
    reader = MaskReader(Path(arguments["--out"]))
    assert reader.images == ("a.jpg", "b.jpg", "sub/c.png")
    assert "d.jpg" in reader.skipped
    assert "empty captions, left out: 1" in result.stderr
    assert "skipped: 1 (d.jpg: broken photo" in result.output
    nouns = json.loads((Path(arguments["--out"]) / "nouns.json").read_text())
    assert nouns["cat"] == 2
    assert "photo" not in nouns
    assert sum(reader.vocabulary.values()) == sum(len(photo.regions) for photo in reader) > 0
    for photo in reader:
        for region in photo.regions:
            assert region.noun in nouns
            assert region.rle.decode().shape == (photo.height, photo.width)
            left, top, right, bottom = region.box
            assert 0 <= left < right <= photo.width
            assert 0 <= top < bottom <= photo.height
    assert reader.info.options["box_threshold"] == 0.3
    with Image.open(Path(arguments["--out"]) / "contact-sheet.png") as sheet:
        assert sheet.size == (4 * CELL, CELL + TEXT)


def test_run_again_it_does_nothing_and_with_other_options_it_refuses(arguments):
    assert run(arguments).exit_code == 0
    before = files(arguments["--out"])
    assert run(arguments).exit_code == 0
    assert files(arguments["--out"]) == before
    assert run(arguments, sam=Path(arguments["--sam"]).name).exit_code == 0  # no network is opened
    result = run(arguments, box_threshold=0.4)
    assert result.exit_code == 2
    assert "begun with box_threshold 0.3, got 0.4" in result.stderr
    assert files(arguments["--out"]) == before


def test_masks_of_captions_guard_what_means_the_same(arguments, photos, tmp_path, write_captions):
    """From captions to training: a sofa is no negative where a couch is said, nor a woman where a lady is."""
    said = {"a.jpg": ["a lady on the couch ."], "b.jpg": ["a woman on the sofa ."], "sub/c.png": ["a cat"]}
    masks, words = Path(arguments["--out"]), ("cat", "couch", "lady", "sofa", "woman")
    assert run(arguments, captions=write_captions(tmp_path / "said.json", said)).exit_code == 0
    names, wider = (json.loads((masks / f"{name}.json").read_text()) for name in ("synonyms", "wider"))
    assert names == {"couch": ["couch", "sofa"], "sofa": ["sofa", "couch"]}
    assert wider == {"lady": "woman"}

    recipe = DataRecipe(size=32, structure_target="none", distractors=9, negatives=9)

    def judged() -> dict[str, set[str]]:
        dataset = MaskDataset(
            masks, photos, text=WordBank(words, torch.eye(5, NANO.text_width)), recipe=recipe, config=NANO
        )
        batch = dataset.collate([dataset[place] for place in range(3)])
        return {
            photo: {word for word, valid in zip(batch.words, row, strict=True) if valid}
            for photo, row in zip(batch.photos, batch.valid.tolist(), strict=True)
        }

    guarded = judged()
    for name in ("synonyms", "wider"):
        (masks / f"{name}.json").unlink()
    for photo, wrong in (("a.jpg", {"sofa", "woman"}), ("b.jpg", {"couch", "lady"})):
        assert not wrong & guarded[photo]
        assert wrong & judged()[photo], "without the files they are taken for negatives"


KILLED = """
import sys, time
import ovsdino.masks.make as make
real = make.load_photo
make.load_photo = lambda path: (time.sleep(0.4), real(path))[1]
from ovsdino.cli import main
main(sys.argv[1:])
"""


def test_killed_in_the_middle_it_goes_on(arguments, tmp_path):
    whole = run(arguments, out=tmp_path / "whole")
    assert whole.exit_code == 0
    words = [word for pair in arguments.items() for word in pair]
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, "pseudo-masks", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    first = Path(arguments["--out"]) / "shard-00000.jsonl.gz"
    deadline = time.monotonic() + 100
    while not first.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert first.exists()
    assert not first.with_name("shard-00001.jsonl.gz").exists()
    assert run(arguments).exit_code == 0
    assert files(arguments["--out"]) == files(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"photos": "nowhere"}, "nowhere: no such folder; give one of photos"),
        ({"captions": "nowhere.json"}, "nowhere.json: cannot be read (No such file or directory)"),
        ({"sam": "sam_vit_h_4b8939.pth"}, "/sam_vit_h_4b8939.pth https://dl.fbaipublicfiles.com"),
        ({"detector": "IDEA-Research/none"}, "get it: hf download IDEA-Research/none"),
        ({"nltk_data": "nowhere"}, "nowhere: no such folder; give the one that holds NLTK's data"),
        ({"min_captions": 100}, "no noun stands in 100 of the 8 captions; lower --min-captions"),
        ({"device": "cuda:77"}, "--device cuda:77: torch cannot use it here"),
        ({"source": "segmenters"}, "--source segmenters needs --teachers DIR and --concepts FILE"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(arguments, changes, message):
    result = run(arguments, **changes)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert sum("Error" in line for line in result.stderr.splitlines()) == 1
    assert not Path(arguments["--out"]).exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "the GPU has too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "too little memory"),
        (MemoryError(), "too little memory"),
    ],
)
def test_too_little_memory_is_one_line(arguments, monkeypatch, error, message):
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("ovsdino.masks.teachers.grounded_sam.load_sam", fail)
    result = run(arguments)
    assert result.exit_code == 2
    assert f"Error: {message}; give a smaller --sam or --detector, or fewer --workers" in result.stderr


def test_captions_of_another_data_set_are_refused(arguments, tmp_path, write_captions):
    other = write_captions(tmp_path / "other.json", {"COCO_val_1.jpg": ["a cat"]})
    result = run(arguments, captions=other)
    assert result.exit_code == 2
    assert "none of its 1 photos is in" in result.stderr
    del arguments["--captions"]
    result = run(arguments)
    assert result.exit_code == 2
    assert "--captions is missing" in result.stderr


def test_a_folder_with_something_else_is_left_alone(arguments):
    result = run(arguments, out=arguments["--photos"])
    assert result.exit_code == 2
    assert "holds no masks.json; give a new or an empty folder" in result.stderr


def test_some_photos_only(arguments):
    assert run(arguments, max_photos=2).exit_code == 0
    reader = MaskReader(Path(arguments["--out"]))
    assert sorted((*reader.images, *reader.skipped)) == ["a.jpg", "sub/c.png"]


def test_the_sheet_shows_a_mask_in_its_colour(arguments, photos):
    assert run(arguments, sheet=0).exit_code == 0
    reader = MaskReader(Path(arguments["--out"]))
    assert not (Path(arguments["--out"]) / "contact-sheet.png").exists()
    page = np.asarray(draw_sheet(reader, photos, count=2, columns=1))
    assert page.shape == (2 * (CELL + TEXT), CELL, 3)
    assert (page[:CELL] != 255).any()
    assert (page[CELL : CELL + TEXT] != 255).any()  # the words
