"""Pseudo-masks on disk: JSON lines in compressed shards with random access. A shard is complete or absent.

A folder holds ``masks.json`` (what made it), ``shard-00000.jsonl.gz`` and so on, and in the end
``vocabulary.json`` (photos of each noun) and ``index.json`` (where each photo's line lies). A shard is a
fixed range of the photos, so a killed run resumes with exactly the missing shards. Each
line is a gzip member of its own: ``zcat`` reads the file, and one photo is read without the others.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ovsdino.masks.errors import MaskError
from ovsdino.masks.store.photo_masks import (
    MaskRegion,
    PhotoMasks,
    Record,
    Rle,
    SkippedPhoto,
    from_json,
    to_json,
)
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.atomic import PARTIAL, write_bytes
from ovsdino_runtime.base.regular_file import regular_file

__all__ = ["MaskInfo", "MaskReader", "MaskRegion", "PhotoMasks", "Record", "Rle", "SkippedPhoto"]

SCHEMA_VERSION = 1
INFO, INDEX, VOCABULARY = "masks.json", "index.json", "vocabulary.json"


@dataclass(frozen=True)
class MaskInfo:
    """How a folder of masks was made (``masks.json``). A resumed run must match all fields."""

    schema_version: int
    made_by: str
    source: str
    options: dict[str, object]
    listing: str  # SHA-256 of the photos' names, in order
    photos: int
    shard_size: int  # photos a shard

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.photos // self.shard_size)

    def part(self, shard: int) -> slice:
        """Return the range of photos in a shard."""
        return slice(shard * self.shard_size, (shard + 1) * self.shard_size)


def listing_hash(images: Sequence[str]) -> str:
    """Hash the names of photos, in order."""
    return hashlib.sha256("\n".join(images).encode()).hexdigest()


def shard_path(folder: Path, shard: int) -> Path:
    """Return the path of a shard."""
    return folder / f"shard-{shard:05d}.jsonl.gz"


def check_masks(folder: Path, info: MaskInfo) -> None:
    """Reject a folder in which a run can neither start nor resume. Write nothing.

    Raises:
        MaskError: the folder contains something else, or was made of other photos or with other options.
    """
    if (folder / INFO).exists():
        _check_same(folder, read_info(folder), info)
    elif folder.exists() and (
        not folder.is_dir() or any(not PARTIAL.fullmatch(file.name) for file in folder.iterdir())
    ):
        raise MaskError(f"{folder}: exists and holds no {INFO}; give a new or an empty folder")


def start_masks(folder: Path, info: MaskInfo) -> list[int]:
    """Open a new folder or one of a stopped run, and return the missing shards.

    Raises:
        MaskError: see :func:`check_masks`.
    """
    check_masks(folder, info)
    if not (folder / INFO).exists():
        folder.mkdir(parents=True, exist_ok=True)
        _write_whole(folder / INFO, strict_json.dumps(info).encode())
    return missing_shards(folder, info)


def missing_shards(folder: Path, info: MaskInfo) -> list[int]:
    """Return the missing shards. Write nothing."""
    return [shard for shard in range(info.shards) if not shard_path(folder, shard).exists()]


def write_shard(folder: Path, shard: int, records: Iterable[Record]) -> None:
    """Write a shard atomically."""
    lines = (json.dumps(to_json(record), ensure_ascii=False).encode() + b"\n" for record in records)
    _write_whole(shard_path(folder, shard), b"".join(gzip.compress(line, 6, mtime=0) for line in lines))


def write_beside(folder: Path, name: str, content: object) -> None:
    """Write a JSON file beside the shards, such as ``synonyms.json``."""
    _write_whole(folder / name, _pretty(content))


def finish_masks(folder: Path) -> None:
    """Count the vocabulary and index the lines, once all shards are written.

    Raises:
        MaskError: a shard is missing or damaged.
    """
    info = read_info(folder)
    vocabulary: Counter[str] = Counter()
    index: list[dict[str, object]] = []
    skipped: dict[str, str] = {}
    for shard in range(info.shards):
        path, places = shard_path(folder, shard), []
        if not path.exists():
            raise MaskError(_unfinished(folder, info))
        for offset, record in _members(path):
            if isinstance(record, SkippedPhoto):
                skipped[record.image] = record.reason
            else:
                places.append([record.image, offset])
                vocabulary.update({region.noun for region in record.regions})
        index.append({"bytes": path.stat().st_size, "photos": places})
    for left_over in folder.iterdir():
        if PARTIAL.fullmatch(left_over.name):
            left_over.unlink()
    counted = dict(sorted(vocabulary.items(), key=lambda item: (-item[1], item[0])))
    _write_whole(folder / VOCABULARY, _pretty(counted))
    content: dict[str, object] = {"shards": index, "skipped": skipped}
    _write_whole(folder / INDEX, _pretty({**content, "digest": _hash(content, counted)}))


class MaskReader:
    """Read a finished folder of pseudo-masks by photo number. Can be pickled for other processes.

    Raises:
        MaskError: the folder is missing, incomplete, damaged, or not a folder of masks.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.info = read_info(folder)
        if not (folder / INDEX).exists():
            raise MaskError(_unfinished(folder, self.info))
        try:
            index = json.loads(regular_file(folder / INDEX).read_text(encoding="utf-8"))
            counts = json.loads(regular_file(folder / VOCABULARY).read_text(encoding="utf-8"))
            if index.pop("digest", None) not in (None, _hash(index, counts)):  # None: of an older version
                raise ValueError("their digest is another one")
            self.vocabulary: dict[str, int] = {str(noun): int(count) for noun, count in counts.items()}
            self.skipped: dict[str, str] = dict(index["skipped"])
            sizes = [int(shard["bytes"]) for shard in index["shards"]]
            self._places = [
                (str(image), number, int(offset))
                for number, shard in enumerate(index["shards"])
                for image, offset in shard["photos"]
            ]
        except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
            raise MaskError(f"{folder}: {INDEX} or {VOCABULARY} is damaged ({error}); {AGAIN}") from error
        self.images = tuple(image for image, _, _ in self._places)
        for number, size in enumerate(sizes):
            path = shard_path(folder, number)
            actual = path.stat().st_size if path.exists() else 0
            if actual != size:
                raise MaskError(f"{path}: {actual} bytes, expected {size}; {AGAIN}")

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: int) -> PhotoMasks:
        image, shard, offset = self._places[number]
        path = shard_path(self.folder, shard)
        _, record = next(_members(path, offset), (0, None))
        if not isinstance(record, PhotoMasks) or record.image != image:
            raise MaskError(f"{path}: {image} is not where {INDEX} says; {AGAIN}")
        return record

    def __iter__(self) -> Iterator[PhotoMasks]:
        return (self[number] for number in range(len(self)))


AGAIN = "delete it and run `ovsdino pseudo-masks` again, which remakes only that"


def read_info(folder: Path) -> MaskInfo:
    """Read ``masks.json``.

    Raises:
        MaskError: the file is missing, damaged, or of another version.
    """
    path = folder / INFO
    if not path.is_file():
        what = f"no {INFO} in it" if folder.is_dir() else "no such folder"
        raise MaskError(f"{folder}: {what}; give a folder that `ovsdino pseudo-masks` made")
    try:
        raw = strict_json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise MaskError(
                f"{path}: schema_version {version}, this ovsdino reads {SCHEMA_VERSION}; make it again"
            )
        return strict_json.parse(MaskInfo, raw)
    except (OSError, ValueError, RecursionError) as error:
        raise MaskError(f"{path}: damaged ({error}); make the masks again") from error


def _check_same(folder: Path, old: MaskInfo, new: MaskInfo) -> None:
    """Reject a run that would mix different masks in one folder."""
    cure = f"continue with what {folder / INFO} says, or give a new folder"
    if old.listing != new.listing:
        raise MaskError(f"{folder}: begun on {old.photos} other photos, now there are {new.photos}; {cure}")
    before, now = ({**asdict(info), **info.options} for info in (old, new))
    for name in sorted((before.keys() | now.keys()) - {"options", "made_by"}):
        if before.get(name) != now.get(name):
            raise MaskError(f"{folder}: begun with {name} {before.get(name)}, got {now.get(name)}; {cure}")


def _unfinished(folder: Path, info: MaskInfo) -> str:
    finished = sum(shard_path(folder, shard).exists() for shard in range(info.shards))
    return (
        f"{folder}: unfinished, {finished} of {info.shards} shards; run `ovsdino pseudo-masks` again to go on"
    )


def _members(path: Path, offset: int = 0) -> Iterator[tuple[int, Record]]:
    """Yield the records of a shard from an offset on, each with its offset."""
    try:
        with regular_file(path).open("rb") as file:
            file.seek(offset)
            rest = b""
            while chunk := rest or file.read(1 << 16):
                member = zlib.decompressobj(wbits=31)
                line, used = member.decompress(chunk), len(chunk)
                while not member.eof:
                    if not (chunk := file.read(1 << 16)):
                        raise EOFError("a line ends early")
                    line, used = line + member.decompress(chunk), used + len(chunk)
                rest = member.unused_data
                yield offset, from_json(json.loads(line))
                offset += used - len(rest)
    except (OSError, EOFError, zlib.error, ValueError, RecursionError, KeyError, TypeError) as error:
        raise MaskError(f"{path}: damaged ({error}); {AGAIN}") from error


def _hash(index: Mapping[str, object], vocabulary: Mapping[str, int]) -> str:
    """Hash an index without its digest, and the vocabulary."""
    return hashlib.sha256(json.dumps([index, vocabulary], sort_keys=True).encode()).hexdigest()


def _pretty(raw: object) -> bytes:
    return (json.dumps(raw, indent=1, ensure_ascii=False) + "\n").encode()


def _write_whole(path: Path, data: bytes) -> None:
    write_bytes(path, data)
