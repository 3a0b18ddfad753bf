"""Shards: what is written is read, and a writer killed at any moment loses and doubles nothing."""

import gzip
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest

from ovsdino.masks.errors import MaskError
from ovsdino.masks.store.shards import (
    MaskInfo,
    MaskReader,
    MaskRegion,
    PhotoMasks,
    Rle,
    SkippedPhoto,
    finish_masks,
    listing_hash,
    shard_path,
    start_masks,
    write_shard,
)

IMAGES = [f"set/{number:03d}.jpg" for number in range(10)]
INFO = MaskInfo(
    schema_version=1,
    made_by="ovsdino test",
    source="random",
    options={"threshold": 0.25},
    listing=listing_hash(IMAGES),
    photos=10,
    shard_size=4,
)


def random_photo(number):
    """A photo's masks, other for each number: with and without regions, weak words and unknown pixels."""
    random = np.random.default_rng(number)
    height, width = random.integers(3, 40, 2).tolist()
    regions = tuple(
        MaskRegion(
            noun=noun,
            rle=Rle.encode(random.random((height, width)) < 0.5) if random.random() < 0.7 else None,
            score=float(random.random()),
            box=(0.0, float(random.random()), float(width), float(height)),
        )
        for noun in ("cat", "tennis racket", "jalapeño")[: number % 4]
    )
    ignore = Rle.encode(random.random((height, width)) < 0.2) if number % 2 else None
    return PhotoMasks(
        image=IMAGES[number],
        height=height,
        width=width,
        source="random",
        regions=regions,
        exclusive=number % 3 == 0,
        closed=("dog",),
        ignore=ignore,
    )


RECORDS = [SkippedPhoto(IMAGES[5], "broken photo") if n == 5 else random_photo(n) for n in range(10)]


def write(folder, records=RECORDS, info=INFO):
    for shard in start_masks(folder, info):
        write_shard(folder, shard, records[info.part(shard)])
    finish_masks(folder)
    return folder


def test_a_mask_survives_the_way_through_rle():
    mask = np.random.default_rng(0).random((7, 11)) < 0.3
    rle = Rle.encode(mask)
    assert rle.size == (7, 11)
    np.testing.assert_array_equal(rle.decode(), mask)


def test_what_is_written_is_read_in_any_order(tmp_path):
    reader = MaskReader(write(tmp_path / "masks"))
    photos = [record for record in RECORDS if isinstance(record, PhotoMasks)]
    assert len(reader) == 9
    assert reader.images == tuple(photo.image for photo in photos)
    assert [reader[number] for number in reversed(range(9))] == photos[::-1]
    assert list(pickle.loads(pickle.dumps(reader))) == photos  # noqa: S301 - how a worker gets it
    assert reader.skipped == {IMAGES[5]: "broken photo"}
    assert reader.info == INFO


def test_the_vocabulary_counts_photos(tmp_path):
    twice = replace(random_photo(1), regions=random_photo(1).regions * 2)  # two cats in a photo are one photo
    folder = write(tmp_path / "masks", [twice if record.image == IMAGES[1] else record for record in RECORDS])
    count = {"cat": 6, "tennis racket": 4, "jalapeño": 2}  # photo 5 is skipped; number % 4 nouns a photo
    assert MaskReader(folder).vocabulary == count
    assert json.loads((folder / "vocabulary.json").read_text()) == count


def test_any_tool_reads_a_shard(tmp_path):
    folder = write(tmp_path / "masks")
    with gzip.open(shard_path(folder, 1), "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [line["image"] for line in lines] == IMAGES[4:8]
    rle = lines[3]["regions"][0]["rle"] or lines[3]["regions"][1]["rle"]
    assert rle.keys() == {"counts", "size"}


CHILD = """
import sys, time
from pathlib import Path
sys.path[:0] = {paths!r}
from test_shards import INFO, RECORDS, finish_masks, start_masks, write_shard

def slowly(records):
    for record in records:
        time.sleep(0.01)
        yield record

folder = Path(sys.argv[1])
for shard in start_masks(folder, INFO):
    write_shard(folder, shard, slowly(RECORDS[INFO.part(shard)]))
finish_masks(folder)
print("done")
"""


def test_killed_again_and_again_it_ends_as_if_never_killed(tmp_path):
    """A real child, SIGKILLed at random moments until it gets through."""
    whole = write(tmp_path / "whole")
    here = os.path.dirname(__file__)  # noqa: PTH120 - for the child's path
    code = CHILD.format(paths=[here, *sys.path])
    random, kills = np.random.default_rng(0), 0
    folder = tmp_path / "killed"
    while True:
        child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE)
        deadline = time.monotonic() + 10
        while not folder.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(0.001)
        if kills < 3:
            time.sleep(random.uniform(0, 0.08))
            child.send_signal(signal.SIGKILL)
        output, _ = child.communicate()
        if output == b"done\n":
            break
        assert child.returncode == -signal.SIGKILL
        kills += 1
    assert kills
    made = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert made == {path.name: path.read_bytes() for path in whole.iterdir()}


def test_a_second_run_writes_nothing_again(tmp_path):
    folder = write(tmp_path / "masks")
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")}
    assert start_masks(folder, INFO) == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*")} == before


def test_a_shard_that_fails_midway_leaves_nothing(tmp_path):
    def failing():
        yield RECORDS[0]
        raise RuntimeError("the teacher fell over")

    start_masks(tmp_path / "masks", INFO)
    with pytest.raises(RuntimeError, match="fell over"):
        write_shard(tmp_path / "masks", 0, failing())
    assert [path.name for path in (tmp_path / "masks").iterdir()] == ["masks.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"listing": "0"}, "begun on 10 other photos, now there are 10"),
        ({"source": "segmenters"}, "begun with source random, got segmenters"),
        ({"options": {"threshold": 0.3}}, "begun with threshold 0.25, got 0.3"),
        ({"shard_size": 5}, "begun with shard_size 4, got 5"),
    ],
)
def test_a_changed_run_is_refused(tmp_path, change, message):
    write(tmp_path / "masks")
    with pytest.raises(MaskError, match=message):
        start_masks(tmp_path / "masks", replace(INFO, **change))


def test_another_version_may_go_on(tmp_path):
    start_masks(tmp_path / "masks", INFO)
    assert start_masks(tmp_path / "masks", replace(INFO, made_by="ovsdino next")) == [0, 1, 2]


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter")
    with pytest.raises(MaskError, match=r"holds no masks\.json"):
        start_masks(tmp_path, INFO)


def spoil(folder, what):
    shard = shard_path(folder, 1)
    data = shard.read_bytes()
    if what == "gone":
        shard.unlink()
    elif what == "short":
        shard.write_bytes(data[:-9])
    elif what == "flipped":
        shard.write_bytes(data[:40] + bytes([data[40] ^ 255]) + data[41:])
    elif what == "unfinished":
        (folder / "index.json").unlink()
        shard.unlink()
    elif what == "index":
        (folder / "index.json").write_text("{}")
    elif what == "version":
        info = json.loads((folder / "masks.json").read_text())
        (folder / "masks.json").write_text(json.dumps({**info, "schema_version": 9}))
    elif what == "foreign":
        (folder / "masks.json").unlink()


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("gone", "shard-00001.jsonl.gz: 0 bytes, expected"),
        ("short", "shard-00001.jsonl.gz: .* bytes, expected"),
        ("flipped", "shard-00001.jsonl.gz: damaged"),
        ("unfinished", "unfinished, 2 of 3 shards; run `ovsdino pseudo-masks` again to go on"),
        ("index", "index.json or vocabulary.json is damaged"),
        ("version", "schema_version 9, this ovsdino reads 1"),
        ("foreign", "no masks.json in it"),
    ],
)
def test_a_damaged_folder_is_refused_in_a_line(tmp_path, what, message):
    folder = write(tmp_path / "masks")
    spoil(folder, what)
    with pytest.raises(MaskError, match=message) as caught:
        list(MaskReader(folder))
    assert len(str(caught.value).splitlines()) == 1


def test_a_deleted_shard_is_made_again(tmp_path):
    folder = write(tmp_path / "masks")
    whole = shard_path(folder, 1).read_bytes()
    spoil(folder, "gone")
    assert start_masks(folder, INFO) == [1]
    write(folder)
    assert shard_path(folder, 1).read_bytes() == whole


def test_no_such_folder(tmp_path):
    with pytest.raises(MaskError, match="no such folder"):
        MaskReader(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["index.json", "vocabulary.json"])
def test_a_changed_index_or_vocabulary_is_refused(tmp_path, name):
    folder = write(tmp_path / "masks")
    file = folder / name
    file.write_text(file.read_text().replace("6", "7", 1))
    with pytest.raises(MaskError, match=r"is damaged|bytes, expected"):
        MaskReader(folder)
