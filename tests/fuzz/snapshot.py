"""What lies in a folder, so that two runs can be compared; and which files are torn."""

import csv
import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

TIMES = {"timings_ms", "seconds", "took", "created", "date", "load"}  # keys that a clock decides
ROUNDING = 1e-6  # of embeddings of unit length
TIMED = ("second", "wait")  # parts of such columns
Content = object


def snapshot(folder: Path) -> dict[str, Content]:
    """Read every file below a folder, without what a clock decides."""
    files = {
        file.relative_to(folder).as_posix(): file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not _is_foreign(file.relative_to(folder))
    }
    journals = {name for name in files if "/.ovsdino-done/" in name and name.endswith(".jsonl")}
    contents = {name: read(file) for name, file in files.items() if name not in journals}
    if journals:  # their names differ in every run, their keys do not
        contents["journals"] = sorted({key for name in journals for key in _keys(files[name])})
    return contents


def _keys(journal: Path) -> list[str]:
    """Read the keys of a journal; the last line may be cut."""
    lines = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _is_foreign(name: Path) -> bool:
    """Tell whether a library wrote a file, under a name that differs in every run: TensorBoard's or Ray's."""
    return name.name.startswith("events.out.") or name.parts[:2] == ("tmp", "ray")


def read(file: Path) -> Content:
    """Read one file whole.

    Raises:
        Exception: it is torn.
    """
    return READERS.get(file.suffix, Path.read_bytes)(file)


def is_same(first: Content, second: Content) -> bool:
    """Compare what was read. Numbers with a fraction may differ by rounding: batches are cut elsewhere."""
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        if first.shape != second.shape or first.dtype != second.dtype:
            return False
        if first.dtype.kind == "f":
            return np.allclose(first, second, rtol=0, atol=ROUNDING)
        return np.array_equal(first, second)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(is_same(first[key], second[key]) for key in first)
    return bool(first == second)


def find_torn(folder: Path) -> list[str]:
    """Name the files below a folder that cannot be read whole, and why. Temporary ones are left out."""
    from ovsdino_runtime.bundle.bundle import load_bundle

    torn = []
    for file in sorted(folder.rglob("*")):
        parts = file.relative_to(folder).parts
        try:
            if any(part.startswith(".") for part in parts) or file.name.endswith("-journal"):
                continue  # SQLite's journal goes when the file is read
            if file.suffix == ".ovs":
                load_bundle(file)
            elif not file.is_dir():
                read(file)
        except Exception as error:  # noqa: BLE001 - a torn file makes readers raise anything
            torn.append(f"{'/'.join(parts)}: {type(error).__name__}: {error}"[:200])
    return torn


def _json(file: Path) -> Content:
    if file.name == "bundle.json":  # its hashes are those of files that are compared
        return sorted(json.loads(file.read_text(encoding="utf-8"))["files"])
    return _without_times(json.loads(file.read_text(encoding="utf-8")))


def _without_times(value: object) -> object:
    if isinstance(value, dict):
        return {key: _without_times(inner) for key, inner in value.items() if key not in TIMES}
    return [_without_times(inner) for inner in value] if isinstance(value, list) else value


def _csv(file: Path) -> Content:
    text = file.read_text(encoding="utf-8")
    assert not text or text.endswith("\n"), "the last line is cut"
    rows = list(csv.DictReader(text.splitlines()))
    assert all(None not in row and None not in row.values() for row in rows), "a line is cut"
    return [{k: v for k, v in row.items() if not any(word in k for word in TIMED)} for row in rows]


def _image(file: Path) -> Content:
    data = file.read_bytes()
    Image.open(BytesIO(data)).load()
    return data


def _arrays(file: Path) -> Content:
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays.items())


def _tensors(file: Path) -> Content:
    from safetensors.numpy import load_file

    return load_file(file)


def _rows(file: Path) -> Content:
    """Read the text cache; SQLite undoes what a killed process had not committed."""
    with closing(sqlite3.connect(file)) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        if not database.execute("SELECT name FROM sqlite_master").fetchone():
            return []  # killed before the first rows were stored
        columns = "graph, phrase, vector, digest"  # not when it was used
        return database.execute(f"SELECT {columns} FROM phrases_v2 ORDER BY 1, 2").fetchall()


READERS: dict[str, Callable[[Path], Content]] = {
    ".json": _json,
    ".geojson": _json,
    ".csv": _csv,
    ".png": _image,
    ".jpg": _image,
    ".npz": _arrays,
    ".safetensors": _tensors,
    ".sqlite3": _rows,
}
