"""`ovsdino pseudo-masks --source sets`: labelled sets with their own names and backgrounds, in one folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ovsdino.cli import main
from ovsdino.masks.store.shards import (
    MaskInfo,
    MaskReader,
    MaskRegion,
    PhotoMasks,
    Rle,
    finish_masks,
    listing_hash,
    start_masks,
    write_beside,
    write_shard,
)
from ovsdino.network.config import NANO
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset, training_words
from ovsdino.training.data_recipe import NANO_DATA
from ovsdino.training.systems.ovsdino_losses import decide
from ovsdino.training.targets.word_bank import WordBank

SIDE = 8
SETS = {  # folder -> names, and what the labels of its one photo are in the four quarters
    "pets": ("background\ncat\ndog\n", (0, 1, 0, 255)),
    "streets": ("house\nwindow\nroad\ndebris\n", (0, 1, 2, 3)),
    "single": ("background\nowl\nlamp\n", (0, 1, 0, 0)),
}
FILE = {
    "about": "a test",
    "sets": {
        "pets": {"background": "absent"},
        "streets": {"background": "none"},
        "single": {"background": "rest"},
    },
    "nouns": {"house": "building", "debris": None},
    "names": {"cat": ["cat", "kitty"]},
    "parts": {"window": ["building"], "owl": ["tree"]},
    "distractors": ["spoon", "cat"],
}
EXACT = replace(
    NANO_DATA, size=SIDE, largest=SIDE, crop="resized", crop_scale=(1.0, 1.0), flip=0.0, label_stride=1,
    jitter=(0, 0, 0, 0), distractors=0, listed_distractors=2, draw_synonyms=False, similar=None, shares=(),
)  # fmt: skip


def quarters(values: tuple[int, ...]) -> np.ndarray:
    """Fill the quarters of a square: top left, top right, bottom left, bottom right."""
    half = SIDE // 2
    return np.kron(np.array(values, np.uint8).reshape(2, 2), np.ones((half, half), np.uint8))


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three sets of a photo each, and finished masks of a photo in a fourth folder."""
    for name, (names, values) in SETS.items():
        save(tmp_path / name / "images/a.png", np.full((SIDE, SIDE, 3), 99, np.uint8))
        save(tmp_path / name / "labels/a.png", quarters(values))
        (tmp_path / name / "names.txt").write_text(names)
    save(tmp_path / "older/below/b.png", np.full((SIDE, SIDE, 3), 50, np.uint8))
    masks = tmp_path / "finished"
    sofa = MaskRegion(
        noun="sofa", rle=Rle.encode(quarters((1, 1, 0, 0)) > 0), score=1.0, box=(0.0, 0.0, 8.0, 4.0)
    )
    photo = PhotoMasks(
        image="below/b.png",
        height=SIDE,
        width=SIDE,
        source="segmenters",
        regions=(sofa,),
        exclusive=True,
        closed=("sofa", "wall"),
        ignore=None,
    )
    start_masks(
        masks,
        MaskInfo(
            schema_version=1,
            made_by="test",
            source="segmenters",
            options={},
            listing=listing_hash([photo.image]),
            photos=1,
            shard_size=64,
        ),
    )
    write_shard(masks, 0, [photo])
    write_beside(masks, "synonyms.json", {"sofa": ["sofa", "couch"], "wall": ["wall"]})
    write_beside(masks, "wider.json", {"owl": "bird"})
    finish_masks(masks)
    (tmp_path / "sets.json").write_text(json.dumps(FILE))
    return tmp_path


def run(folder: Path, *more: str):
    arguments = ["--source", "sets", "--photos", folder, "--out", folder / "masks", "--sheet", 0]
    join = ["--sets", folder / "sets.json", "--join", f"older={folder / 'finished'}"]
    return CliRunner().invoke(main, ["pseudo-masks", *map(str, [*arguments, *join]), *more])


def batch_of(folder: Path, **changes: object) -> tuple[Batch, dict[str, int]]:
    """Return all photos as one batch, and the place of each in it; the words' vectors do not matter."""
    words = training_words(folder / "masks")
    bank = WordBank(words, torch.eye(len(words)))
    dataset = MaskDataset(folder / "masks", folder, text=bank, recipe=replace(EXACT, **changes), config=NANO)
    batch = dataset.collate([dataset[i] for i in range(len(dataset))])
    return batch, {photo.split("/")[0]: place for place, photo in enumerate(batch.photos)}


def verdicts(folder: Path, photo: str, row: int, column: int) -> dict[str, bool | None]:
    """Say of each word whether a pixel teaches that it is right, wrong, or nothing (None)."""
    batch, place = batch_of(folder)
    decided = decide(batch, batch.labels)
    right, judged = (part[place[photo], :, row, column] for part in (decided.masks, decided.valid))
    return {
        word: bool(right[n]) if judged[n] else None for n, word in enumerate(batch.words) if batch.words[n]
    }


def test_sets_and_finished_masks_become_one_folder(folder):
    result = run(folder)
    assert result.exit_code == 0, result.output
    reader = MaskReader(folder / "masks")
    assert reader.images == (
        "older/below/b.png",
        "pets/images/a.png",
        "streets/images/a.png",
        "single/images/a.png",
    )
    older, pets, streets, single = reader
    assert (older.closed, older.regions[0].noun) == (("sofa", "wall"), "sofa")
    assert (pets.closed, [r.noun for r in pets.regions]) == (("cat", "dog"), ["cat"])
    assert np.array_equal(pets.ignore.decode(), quarters((0, 0, 0, 1)) > 0)
    assert (streets.closed, [r.noun for r in streets.regions]) == (
        ("building", "window", "road"), ["building", "window", "road"],
    )  # fmt: skip
    assert np.array_equal(streets.ignore.decode(), quarters((0, 0, 0, 1)) > 0), "debris is of no known noun"
    assert (single.closed, [r.noun for r in single.regions]) == ((), ["owl"])
    beside = {p.stem: json.loads(p.read_text()) for p in (folder / "masks").glob("*.json")}
    assert beside["synonyms"]["cat"] == ["cat", "kitty"]
    assert beside["synonyms"]["sofa"] == ["sofa", "couch"]
    assert beside["synonyms"]["spoon"] == ["spoon"]
    assert beside["wider"] == {"owl": "bird"}
    assert beside["parts"] == FILE["parts"]
    assert beside["distractors"] == FILE["distractors"]
    assert run(folder).exit_code == 0, "a finished folder is kept"


def test_background_is_absence_of_the_set_s_own_names_and_nothing_else(folder):
    run(folder)
    found = verdicts(folder, "pets", 0, 0)
    assert {word for word, right in found.items() if right is False} == {"cat", "dog"}
    assert all(right is None for word, right in found.items() if word not in {"cat", "dog"})
    assert set(verdicts(folder, "pets", 7, 7).values()) == {None}, "255: nothing is known"
    rest = verdicts(folder, "single", 0, 0)
    assert {word for word, right in rest.items() if right is False} == {"owl"}, "a lamp may be there"


def test_a_mask_makes_other_sets_words_wrong_but_for_what_may_lie_there_too(folder):
    run(folder)
    cat = verdicts(folder, "pets", 0, 7)
    assert cat.pop("cat") is True
    assert set(cat.values()) == {False}
    assert {"sofa", "road", "spoon", "owl"} <= cat.keys()
    window = verdicts(folder, "streets", 0, 7)
    assert (window["window"], window["building"]) == (True, False), "this set tells them apart"
    (folder / "pets/names.txt").write_text("background\nwindow\ndog\n")
    (folder / "masks").rename(folder / "before")
    run(folder)
    window = verdicts(folder, "pets", 0, 7)
    assert (window["window"], window["building"], window["road"]) == (True, None, False), "this one does not"


def test_a_listed_distractor_is_no_distractor_where_the_photo_holds_it(folder):
    run(folder)
    batch, place = batch_of(folder)
    assert batch.words.count("cat") == 1
    assert {"spoon", "cat"} <= set(batch.words)
    cat = batch.words.index("cat")
    assert (batch.labels[place["pets"]] == cat).sum() == SIDE * SIDE // 4
    none, _ = batch_of(folder, listed_distractors=0)
    assert "spoon" not in none.words


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"sets": {"pets": {"background": "none"}}},
            "has a label called background, the sets' file says 'none'",
        ),
        ({"sets": {"streets": {"background": "rest"}}}, "has no label called background"),
        ({"sets": {"nowhere": {"background": "none"}}}, "nowhere/images: no such folder"),
        ({"sets": {"older": {"background": "none"}}}, "names a set of this folder already"),
        ({"sets": {"pets": {"background": "gone"}}}, "sets.pets.background"),
        ({"nouns": {"cat": 3}}, "nouns.cat"),
        ({"more": 1}, "unknown key more"),
    ],
)
def test_what_does_not_fit_is_named(folder, change, message):
    save(folder / "older/images/b.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    save(folder / "older/labels/b.png", np.zeros((SIDE, SIDE), np.uint8))
    (folder / "older/names.txt").write_text("cat\n")
    (folder / "sets.json").write_text(json.dumps(FILE | change))
    result = run(folder)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not (folder / "masks").exists()


def test_join_names_a_folder_and_its_masks(folder):
    assert "expected FOLDER=MASKS" in run(folder, "--join", "older").stderr
    assert "no folder" in run(folder, "--join", "gone=finished").stderr
    assert run(folder, "--join", "pets/images=finished").exit_code == 2


def test_a_photo_without_labels_is_left_out_and_labels_without_a_photo_are_named(folder):
    save(folder / "pets/images/c.png", np.zeros((SIDE, SIDE, 3), np.uint8))
    assert run(folder).exit_code == 0
    assert len(MaskReader(folder / "masks")) == 4
    save(folder / "pets/labels/d.png", quarters((0, 0, 0, 0)))
    result = run(folder)
    assert result.exit_code == 2
    assert "d.png: no photo of this name" in result.stderr
