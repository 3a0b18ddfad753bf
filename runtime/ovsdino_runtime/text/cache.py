"""The text cache: embeddings of phrases in an SQLite file, which several processes may share.

A row holds a vector and a digest of its key and vector; a row that was altered is never used.
"""

import hashlib
import json
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from pathlib import Path

import numpy as np

from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.geometry.types import Floats

WAIT_S = 10.0  # for another process that is writing
MAX_BYTES = 512 * 2**20  # of the file; a quarter of the rows is dropped when a new one would not fit
USED_EVERY_S = 3600  # how exactly the last use of a row is known
UNIT = 1.001  # longest mean of vectors of unit length, with rounding
ANY_LENGTH = 1e4  # longest mean of features that are normalised later; CLIP's own are some 10 long
# The journal is SQLite's default, not WAL: WAL needs shared memory, which home directories on a network lack.
SCHEMA = """CREATE TABLE IF NOT EXISTS phrases_v2
    (graph TEXT, phrase TEXT, vector BLOB, digest BLOB, used INTEGER, PRIMARY KEY (graph, phrase))
    WITHOUT ROWID"""
OTHER_OBJECTS = "SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger') LIMIT 1"
LOOKUP = (
    "SELECT phrase, vector, digest FROM phrases_v2 WHERE graph = ? "
    "AND phrase IN (SELECT value FROM json_each(?))"
)
TOUCH = (
    "UPDATE phrases_v2 SET used = ? WHERE graph = ? AND used < ? "
    "AND phrase IN (SELECT value FROM json_each(?))"
)
STORE = "INSERT OR REPLACE INTO phrases_v2 VALUES (?, ?, ?, ?, ?)"
DROP = (
    "DELETE FROM phrases_v2 WHERE (graph, phrase) IN "
    "(SELECT graph, phrase FROM phrases_v2 ORDER BY used LIMIT (SELECT count(*) / 4 + 1 FROM phrases_v2))"
)
Row = tuple[str, bytes, bytes]
log = logging.getLogger(__name__)


class TextCache:
    """Look up and store embeddings by text graph and phrase.

    The cache never raises. A damaged file is renamed and replaced by a new one. If the file cannot be read or
    written, the cache behaves as if it were empty, and warns once.

    Args:
        path: the file; it and its folder are created when something is stored.
        max_bytes: size of the file above which the least recently used rows are deleted.
    """

    def __init__(self, path: Path, *, max_bytes: int = MAX_BYTES) -> None:
        self._path: Path | None = path
        self._max_bytes = max_bytes

    def lookup(
        self, graph: str, phrases: Iterable[str], *, width: int, max_length: float = UNIT
    ) -> dict[str, Floats]:
        """Return the stored embeddings of phrases, in one query.

        Args:
            graph: digest of the text graph and its tokenizer.
            phrases: the phrases as the text graph encodes them.
            width: D; an entry of another width is skipped.
            max_length: largest valid length of a vector; a longer one counts as damaged.

        Shape: (D,) each.
        """
        if self._path is None or not self._path.exists():
            return {}
        wanted = json.dumps(list(phrases))

        def work(database: sqlite3.Connection) -> dict[str, Floats]:
            vectors = _check(
                graph,
                database.execute(LOOKUP, (graph, wanted)).fetchall(),
                width=width,
                max_length=max_length,
            )
            now = int(time.time())
            with suppress(sqlite3.OperationalError):  # read-only: the rows can be used all the same
                database.execute(TOUCH, (now, graph, now - USED_EVERY_S, wanted))
            return vectors

        return self._with_database(work) or {}

    def store(self, graph: str, vectors: Mapping[str, Floats]) -> None:
        """Store embeddings; replace those of the same graph and phrase. Shape: (D,) each."""
        now, rows = int(time.time()), []
        for phrase, vector in vectors.items():
            raw = vector.astype("<f4").tobytes()
            rows.append((graph, phrase, raw, _digest(graph, phrase, raw), now))

        def work(database: sqlite3.Connection) -> dict[str, Floats]:
            database.executemany(STORE, rows)
            if _used_bytes(database) > self._max_bytes:
                database.execute(DROP)
            return {}

        self._with_database(work)

    def _with_database(
        self, work: Callable[[sqlite3.Connection], dict[str, Floats]]
    ) -> dict[str, Floats] | None:
        if self._path is None:
            return None
        try:
            make_private(self._path.parent)
            if writer := find_foreign_writer(self._path):
                raise PermissionError(f"its embeddings may not be the model's: {writer}")
            with closing(sqlite3.connect(self._path, timeout=WAIT_S)) as database, database:
                database.execute(SCHEMA)
                if other := database.execute(OTHER_OBJECTS).fetchone():
                    raise sqlite3.DatabaseError(f"holds a view or trigger, {other[0]!r:.40}")
                return work(database)
        except (sqlite3.OperationalError, OSError) as error:  # locked for long, read-only, full disk
            if _is_damage(error):
                self._set_aside(error)
                return None
            log.warning("%s: %s; going on without the text cache", self._path, error)
            self._path = None
        except (sqlite3.DatabaseError, ValueError) as error:  # ValueError: text that is not UTF-8
            self._set_aside(error)
        return None

    def _set_aside(self, error: Exception) -> None:
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


def _check(graph: str, rows: list[Row], *, width: int, max_length: float) -> dict[str, Floats]:
    """Turn rows into vectors.

    Raises:
        sqlite3.DatabaseError: a row is damaged.
    """
    vectors: dict[str, Floats] = {}
    for phrase, raw, digest in rows:
        if not isinstance(raw, bytes) or digest != _digest(graph, phrase, raw):
            raise sqlite3.DatabaseError(f"the embedding of {phrase!r:.40} was changed or damaged")
        if len(raw) != 4 * width:
            continue
        vector = np.frombuffer(raw, "<f4").astype(np.float32)
        if not is_embedding(vector, max_length):
            raise sqlite3.DatabaseError(f"the embedding of {phrase!r:.40} is not finite or too long")
        vectors[phrase] = vector
    return vectors


def is_embedding(vector: Floats, max_length: float = UNIT) -> bool:
    """Tell whether a vector can be the mean of embeddings: finite, not zero, and not too long."""
    length = float(np.linalg.norm(vector.astype(np.float64)))
    return 0 < length <= max_length  # false for NaN and infinity


def _digest(graph: str, phrase: str, raw: bytes) -> bytes:
    text = f"{len(graph)} {graph} {len(phrase)} {phrase} ".encode("utf-8", "surrogatepass")
    return hashlib.sha256(text + raw).digest()[:16]


def _used_bytes(database: sqlite3.Connection) -> int:
    pages, free, size = (
        database.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return int((pages - free) * size)


def _is_damage(error: Exception) -> bool:
    """Tell whether an error comes from a damaged file, not from an unusable disk."""
    return isinstance(error, sqlite3.OperationalError) and any(
        reason in str(error)
        for reason in ("UTF-8", "no such column", "no such table", "malformed", "columns")
    )
