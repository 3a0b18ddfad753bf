import logging
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ovsdino_runtime
from ovsdino_runtime.text import cache as text_cache
from ovsdino_runtime.text.cache import TextCache


def unit(values) -> np.ndarray:
    """A vector of unit length, as the encoder gives."""
    return (np.asarray(values) / np.linalg.norm(values)).astype(np.float32)


def numbered(number: int, width: int = 64) -> np.ndarray:
    """A vector of unit length that tells its number."""
    return unit([1.0, number, *([0.5] * (width - 2))])


VECTORS = {f"phrase {i}": unit(np.random.default_rng(i).normal(size=4)) for i in range(5)}


@pytest.fixture
def file(tmp_path) -> Path:
    return tmp_path / "deep" / "text.sqlite3"


def test_embeddings_come_back_exactly(file):
    TextCache(file).store("graph", VECTORS)
    found = TextCache(file).lookup("graph", [*VECTORS, "unknown", "a \"quoted\" 'Bäume' \\ phrase"], width=4)
    assert found.keys() == VECTORS.keys()
    for phrase, vector in VECTORS.items():
        np.testing.assert_array_equal(found[phrase], vector)
        assert found[phrase].dtype == np.float32


def test_graphs_do_not_share_embeddings(file):
    cache = TextCache(file)
    cache.store("one", VECTORS)
    cache.store("other", {"phrase 0": unit(np.ones(4))})
    assert cache.lookup("other", VECTORS, width=4).keys() == {"phrase 0"}
    np.testing.assert_array_equal(cache.lookup("one", VECTORS, width=4)["phrase 0"], VECTORS["phrase 0"])


def test_any_number_of_phrases_takes_one_query(file):
    many = {str(i): numbered(i, 2) for i in range(40_000)}  # SQLite allows 32,766 placeholders
    cache = TextCache(file)
    cache.store("graph", many)
    assert len(cache.lookup("graph", many, width=2)) == len(many)


def test_nothing_is_made_before_something_is_stored(file):
    assert TextCache(file).lookup("graph", ["a"], width=4) == {}
    assert not file.parent.exists()


def test_an_entry_of_another_length_is_left_out(file):
    cache = TextCache(file)
    cache.store("graph", VECTORS)
    assert cache.lookup("graph", VECTORS, width=5) == {}
    cache.store("graph", {"phrase 0": unit(np.ones(5))})
    assert cache.lookup("graph", VECTORS, width=5).keys() == {"phrase 0"}


@pytest.mark.parametrize("damage", ["rubbish", "torn", "header"])
def test_a_damaged_file_is_set_aside_and_begun_again(file, damage, caplog):
    cache = TextCache(file)
    cache.store("graph", {str(i): numbered(i) for i in range(500)})
    content = file.read_bytes()
    if damage == "rubbish":
        file.write_bytes(os.urandom(5000))
    elif damage == "torn":
        file.write_bytes(content[:8192] + os.urandom(len(content) - 8192))
    else:
        file.write_bytes(b"\0" * 100 + content[100:])
    assert cache.lookup("graph", [str(i) for i in range(500)], width=64) == {}
    assert "set aside" in caplog.text
    cache.store("graph", VECTORS)
    assert TextCache(file).lookup("graph", VECTORS, width=4).keys() == VECTORS.keys()
    assert sorted(path.name.partition("-")[0] for path in file.parent.iterdir()) == [
        "text.sqlite3",
        "text.sqlite3.damaged",
    ]


def test_where_nothing_can_be_written_it_works_without_a_cache(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = TextCache(tmp_path / "file" / "text.sqlite3")
    cache.store("graph", VECTORS)
    cache.store("graph", VECTORS)
    assert cache.lookup("graph", VECTORS, width=4) == {}
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "going on without the text cache" in caplog.text


def test_a_cache_that_stays_locked_is_done_without(file, monkeypatch, caplog):
    TextCache(file).store("graph", VECTORS)
    monkeypatch.setattr(text_cache, "WAIT_S", 0.05)
    blocker = sqlite3.connect(file, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    assert TextCache(file).lookup("graph", VECTORS, width=4) == {}
    assert "locked; going on without" in caplog.text
    blocker.close()
    assert len(TextCache(file).lookup("graph", VECTORS, width=4)) == len(VECTORS)


WRITER = """
import sys
import numpy as np
from pathlib import Path
from ovsdino_runtime.text.cache import TextCache
name, file = sys.argv[1:]

def numbered(number):
    vector = np.array([1.0, number, *([0.5] * 62)])
    return (vector / np.linalg.norm(vector)).astype(np.float32)

cache = TextCache(Path(file))
for i in range(40):
    mine = {f"{name} {i} {j}": numbered(i * 100 + j) for j in range(20)}
    cache.store("graph", mine | {f"shared {i}": numbered(i)})
    assert len(cache.lookup("graph", mine, width=64)) == 20, (name, i)
"""


def test_two_processes_write_at_once(file):
    environment = os.environ | {"PYTHONPATH": str(Path(ovsdino_runtime.__file__).parents[1])}
    command = [sys.executable, "-c", WRITER]
    writers = [
        subprocess.Popen([*command, name, str(file)], env=environment, stderr=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=60)
        assert writer.returncode == 0, errors
        assert not errors
    cache = TextCache(file)
    for name in ("a", "b"):
        phrases = {f"{name} {i} {j}": i * 100 + j for i in range(40) for j in range(20)}
        found = cache.lookup("graph", phrases, width=64)
        assert all((found[phrase] == numbered(value)).all() for phrase, value in phrases.items())
    assert len(cache.lookup("graph", [f"shared {i}" for i in range(40)], width=64)) == 40


def test_a_second_process_that_also_finds_damage_goes_on(file, caplog):
    TextCache(file).store("graph", VECTORS)
    file.write_bytes(os.urandom(5000))
    first, second = TextCache(file), TextCache(file)
    first.store("graph", VECTORS)
    time.sleep(0.001)
    second.store("graph", VECTORS)
    second.store("graph", VECTORS)
    assert len(first.lookup("graph", VECTORS, width=4)) == len(VECTORS)


def change(file, statement, *values):
    with sqlite3.connect(file) as database:
        database.execute(statement, values)
    database.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE phrases_v2 SET vector = zeroblob(16) WHERE phrase = 'phrase 1'",
        "UPDATE phrases_v2 SET phrase = 'phrase 9' WHERE phrase = 'phrase 1'",
        "UPDATE phrases_v2 SET digest = NULL WHERE phrase = 'phrase 1'",
        "UPDATE phrases_v2 SET vector = 'text' WHERE phrase = 'phrase 1'",
        "CREATE VIEW other AS SELECT * FROM phrases_v2",
        "CREATE TRIGGER other AFTER INSERT ON phrases_v2 BEGIN DELETE FROM phrases_v2; END",
    ],
)
def test_a_changed_row_is_never_used(file, statement, caplog):
    TextCache(file).store("graph", VECTORS)
    change(file, statement)
    cache = TextCache(file)
    assert cache.lookup("graph", [*VECTORS, "phrase 9"], width=4) == {}
    assert "set aside" in caplog.text
    cache.store("graph", VECTORS)
    assert cache.lookup("graph", VECTORS, width=4).keys() == VECTORS.keys()


def test_a_view_in_the_place_of_the_table_is_not_read(file, caplog):
    file.parent.mkdir()
    change(file, "CREATE VIEW phrases_v2 AS SELECT 'graph' AS graph, 'phrase 0' AS phrase, x'00' AS vector")
    assert TextCache(file).lookup("graph", VECTORS, width=4) == {}
    assert "set aside" in caplog.text


@pytest.mark.parametrize("vector", [np.full(4, np.nan), np.zeros(4), np.full(4, 1e30), [np.inf, 0, 0, 0]])
def test_what_is_no_embedding_is_never_used(file, vector, caplog):
    TextCache(file).store("graph", {"phrase 0": np.asarray(vector, np.float32)})
    assert TextCache(file).lookup("graph", VECTORS, width=4) == {}
    assert "not finite or too long" in caplog.text


def test_flipped_bits_never_change_an_embedding(file):
    many = {f"phrase {i}": numbered(i) for i in range(200)}
    TextCache(file).store("graph", many)
    whole, random = file.read_bytes(), np.random.default_rng(7)
    for _ in range(150):
        damaged = bytearray(whole)
        for place in random.integers(0, len(whole), 3):
            damaged[place] ^= 1 << random.integers(8)
        file.write_bytes(damaged)
        for phrase, vector in TextCache(file).lookup("graph", many, width=64).items():
            np.testing.assert_array_equal(vector, many[phrase])
        for aside in file.parent.glob("*.damaged-*"):
            aside.unlink()


def test_the_file_is_bounded_and_what_was_used_longest_ago_goes(file, monkeypatch):
    now = [1_000_000]
    monkeypatch.setattr(text_cache.time, "time", lambda: now[0])
    cache = TextCache(file, max_bytes=200_000)
    for round_ in range(20):
        now[0] += 10_000
        cache.store("graph", {f"{round_} {i}": numbered(i) for i in range(50)})
        cache.lookup("graph", [f"0 {i}" for i in range(50)], width=64)  # the first ones stay in use
    assert file.stat().st_size < 260_000
    assert len(cache.lookup("graph", [f"0 {i}" for i in range(50)], width=64)) == 50
    assert len(cache.lookup("graph", [f"19 {i}" for i in range(50)], width=64)) == 50
    assert cache.lookup("graph", [f"1 {i}" for i in range(50)], width=64) == {}


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_folder_is_closed_to_others(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    TextCache(tmp_path / "cache" / "text.sqlite3").store("graph", VECTORS)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o700
