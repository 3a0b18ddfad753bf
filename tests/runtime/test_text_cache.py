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

VECTORS = {f"phrase {i}": np.random.default_rng(i).normal(size=4).astype(np.float32) for i in range(5)}


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
    cache.store("other", {"phrase 0": np.zeros(4, np.float32)})
    assert cache.lookup("other", VECTORS, width=4).keys() == {"phrase 0"}
    np.testing.assert_array_equal(cache.lookup("one", VECTORS, width=4)["phrase 0"], VECTORS["phrase 0"])


def test_any_number_of_phrases_takes_one_query(file):
    many = {str(i): np.full(2, i, np.float32) for i in range(40_000)}  # SQLite allows 32,766 placeholders
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
    cache.store("graph", {"phrase 0": np.zeros(5, np.float32)})
    assert cache.lookup("graph", VECTORS, width=5).keys() == {"phrase 0"}


@pytest.mark.parametrize("damage", ["rubbish", "torn", "header"])
def test_a_damaged_file_is_set_aside_and_begun_again(file, damage, caplog):
    cache = TextCache(file)
    cache.store("graph", {str(i): np.zeros(64, np.float32) for i in range(500)})
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
cache = TextCache(Path(file))
for i in range(40):
    mine = {f"{name} {i} {j}": np.full(64, i * 100 + j, np.float32) for j in range(20)}
    cache.store("graph", mine | {f"shared {i}": np.full(64, i, np.float32)})
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
        assert all((found[phrase] == value).all() for phrase, value in phrases.items())
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
