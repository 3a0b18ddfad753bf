import logging
import os

import numpy as np
import pytest

from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.text.cache import TextCache

pytestmark = pytest.mark.skipif(os.name == "nt", reason="the user's profile is closed there")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_folders_of_the_cache_are_closed_to_others(cache):
    old = os.umask(0)
    try:
        make_private(cache / "a" / "b")
    finally:
        os.umask(old)
    assert {folder.stat().st_mode & 0o777 for folder in (cache, cache / "a", cache / "a" / "b")} == {0o700}


def test_a_file_that_others_can_write_is_found(cache):
    make_private(cache / "a")
    (file := cache / "a" / "file").touch()
    file.chmod(0o664)  # as with a umask of 002
    assert find_foreign_writer(file) is None  # nobody gets there
    cache.chmod(0o755)
    assert find_foreign_writer(file) is None  # nor through the folder between
    (cache / "a").chmod(0o755)
    assert find_foreign_writer(file) == f"{file} can be written by other users; run: chmod go-w {file}"
    file.chmod(0o644)
    assert find_foreign_writer(file) is None
    cache.chmod(0o777)
    assert find_foreign_writer(file) == f"{cache} can be written by other users; run: chmod go-w {cache}"


def test_a_text_cache_that_others_can_write_is_not_used(cache, caplog):
    vectors = {"a cat": np.eye(1, 6, dtype=np.float32)[0]}
    TextCache(cache / "text.sqlite3").store("graph", vectors)
    assert TextCache(cache / "text.sqlite3").lookup("graph", ["a cat"], width=6)
    cache.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert not TextCache(cache / "text.sqlite3").lookup("graph", ["a cat"], width=6)
    assert "can be written by other users; run: chmod go-w" in caplog.text
    assert "going on without the text cache" in caplog.text
