"""The cache of graphs that ONNX Runtime has optimised: opening one takes a third of the time.

$CACHE/onnxruntime/<digest of the key>/
  graph.onnx      the graph as ONNX Runtime runs it on processors of this kind
  graph.data      its weights
  record.json     size and CRC-32 of both

A graph that is damaged, incomplete, or that another user of this machine can write is optimised again.
"""

import hashlib
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.bundle.exchange import exchange, staging_folder, sweep_staging
from ovsdino_runtime.engines.file_checks import RECORD, is_as_recorded, write_record
from ovsdino_runtime.engines.machine import processor_features, processor_name

GRAPH, WEIGHTS = "graph.onnx", "graph.data"
MAX_KEPT = 8  # graphs; of more, those that were written first are removed
log = logging.getLogger(__name__)


def optimized_folder(digest: str, runtime: str) -> Path:
    """Return the folder of an optimised graph; it may not exist.

    Args:
        digest: hash of everything that decides what the graph computes.
        runtime: version and build of ONNX Runtime.
    """
    key = repr((digest, runtime, processor_name(), processor_features()))
    return cache_dir() / "onnxruntime" / hashlib.sha256(key.encode()).hexdigest()


def find_optimized(folder: Path) -> Path | None:
    """Return the graph in a folder; None if there is none that may be used."""
    if not (folder / RECORD).is_file():
        return None
    try:
        for name in (RECORD, GRAPH, WEIGHTS):
            if writer := find_foreign_writer(folder / name):
                log.warning("%s: not used, for it may not be the model: %s", folder / name, writer)
                return None
        if is_as_recorded(folder, (GRAPH, WEIGHTS)):
            return folder / GRAPH
    except (OSError, ValueError) as error:
        log.debug("%s: %s", folder, error)
        return None
    log.warning("%s: damaged; the graph is optimised again", folder)
    return None


@contextmanager
def keeping_optimized(folder: Path) -> Iterator[Path]:
    """Yield the path to which ONNX Runtime writes an optimised graph, with `WEIGHTS` beside it.

    At the end of the block the folder is replaced in one step, unless nothing was written.

    Raises:
        OSError: the cache cannot be written.
    """
    make_private(folder.parent)
    sweep_staging(folder)
    with staging_folder(folder) as staging:
        fresh = staging / "new"
        fresh.mkdir(mode=0o700)
        yield fresh / GRAPH
        if (fresh / GRAPH).is_file():
            write_record(fresh, (GRAPH, WEIGHTS))
            exchange(fresh, folder, old=staging / "old")
    _remove_oldest(folder.parent, but=folder)


def _remove_oldest(folder: Path, *, but: Path) -> None:
    """Remove all but the `MAX_KEPT` newest graphs; open ones stay usable on systems that allow it."""
    with suppress(OSError):
        kept = [path for path in folder.iterdir() if (path / RECORD).is_file() and path != but]
        kept.sort(key=lambda path: (path / RECORD).stat().st_mtime, reverse=True)
        for path in kept[MAX_KEPT - 1 :]:
            shutil.rmtree(path, ignore_errors=True)
