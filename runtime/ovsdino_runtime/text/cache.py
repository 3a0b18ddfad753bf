"""Embeddings of phrases, kept between runs in one SQLite file that several processes may use at once."""

import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np

from ovsdino_runtime.geometry.types import Floats

WAIT_S = 10.0  # for another process that is writing
# The journal is SQLite's default, not WAL: WAL needs shared memory, which home directories on a network lack.
SCHEMA = """CREATE TABLE IF NOT EXISTS phrases_v1
    (graph TEXT, phrase TEXT, vector BLOB, PRIMARY KEY (graph, phrase)) WITHOUT ROWID"""
LOOKUP = (
    "SELECT phrase, vector FROM phrases_v1 WHERE graph = ? AND phrase IN (SELECT value FROM json_each(?))"
)
STORE = "INSERT OR REPLACE INTO phrases_v1 VALUES (?, ?, ?)"
log = logging.getLogger(__name__)


class TextCache:
    """Looks up and stores embeddings by the graph that made them and by phrase.

    It never fails: a damaged file is set aside and begun again, and where nothing can be read or written it
    works as an empty cache, with one warning.

    Args:
        path: the file; it and its directory are made when something is stored.
    """

    def __init__(self, path: Path) -> None:
        self._path: Path | None = path

    def lookup(self, graph: str, phrases: Iterable[str], *, width: int) -> dict[str, Floats]:
        """Return the embeddings that are known, in one query.

        Args:
            graph: digest of the text graph and its tokenizer.
            phrases: prompts as they are encoded.
            width: D; an entry of another length is damaged and left out.

        Shape: (D,) each.
        """
        if self._path is None or not self._path.exists():
            return {}
        wanted = json.dumps(list(phrases))
        rows = self._with_database(lambda db: db.execute(LOOKUP, (graph, wanted)).fetchall()) or []
        return {
            phrase: np.frombuffer(vector, "<f4").astype(np.float32)
            for phrase, vector in rows
            if isinstance(vector, bytes) and len(vector) == 4 * width
        }

    def store(self, graph: str, vectors: Mapping[str, Floats]) -> None:
        """Keep embeddings; those of the same graph and phrase are replaced. Shape: (D,) each."""
        rows = [(graph, phrase, vector.astype("<f4").tobytes()) for phrase, vector in vectors.items()]
        self._with_database(lambda db: db.executemany(STORE, rows).fetchall())

    def _with_database(
        self, work: Callable[[sqlite3.Connection], list[tuple[str, bytes]]]
    ) -> list[tuple[str, bytes]] | None:
        if self._path is None:
            return None
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=WAIT_S)) as database, database:
                database.execute(SCHEMA)
                return work(database)
        except (sqlite3.OperationalError, OSError) as error:  # locked for long, read-only, full disk
            log.warning("%s: %s; going on without the text cache", self._path, error)
            self._path = None
        except sqlite3.DatabaseError as error:
            self._set_aside(error)
        return None

    def _set_aside(self, error: sqlite3.DatabaseError) -> None:
        if self._path is None:
            return
        aside = self._path.with_name(f"{self._path.name}.damaged-{time.time_ns()}")
        log.warning("%s: %s; set aside as %s, a new text cache is begun", self._path, error, aside.name)
        try:
            self._path.rename(aside)
        except FileNotFoundError:  # another process was faster
            pass
        except OSError:
            self._path = None
