"""Make the pseudo-masks of a folder of photos, shard by shard, in one process or many."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ovsdino import __version__
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import (
    SCHEMA_VERSION,
    MaskInfo,
    Record,
    SkippedPhoto,
    check_masks,
    finish_masks,
    listing_hash,
    missing_shards,
    start_masks,
    write_beside,
    write_shard,
)
from ovsdino.masks.teachers.source import MaskSource, MaskSourceOptions
from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.photo import load_photo

Advance = Callable[[int], None]  # told of so many further photos


@dataclass(frozen=True, kw_only=True)
class MaskJob:
    """A job: photos, source of the masks, and output folder."""

    out: Path
    photos: Path  # folder
    tasks: tuple[PhotoNouns, ...]  # one a photo
    source: MaskSourceOptions
    shard_size: int = 64  # photos a shard: what a kill can cost
    options: Mapping[str, object] = field(default_factory=dict)  # further things that the masks depend on
    beside: Mapping[str, object] = field(
        default_factory=dict
    )  # JSON files beside the shards: name -> content

    @property
    def info(self) -> MaskInfo:
        """Describe the job, for ``masks.json``."""
        words = hashlib.sha256(json.dumps([(t.nouns, t.others) for t in self.tasks]).encode()).hexdigest()
        return MaskInfo(
            schema_version=SCHEMA_VERSION,
            made_by=f"ovsdino {__version__}",
            source=self.source.name,
            options={**self.options, **self.source.describe(), "words of the photos": words[:16]},
            listing=listing_hash([task.image for task in self.tasks]),
            photos=len(self.tasks),
            shard_size=self.shard_size,
        )


def shard_records(
    source: MaskSource, photos: Path, *, tasks: Sequence[PhotoNouns], advance: Advance
) -> Iterator[Record]:
    """Run the source on each task. A photo that cannot be read is recorded as skipped, with the reason."""
    for task in tasks:
        try:
            photo = load_photo(photos / task.image)
        except PhotoError as error:
            yield SkippedPhoto(task.image, str(error).removeprefix(f"{photos / task.image}: "))
        else:
            yield source(photo, task)
        advance(1)


def make_masks(job: MaskJob, *, begin: Advance, advance: Advance) -> None:
    """Make the missing shards in this process.

    Args:
        job: the job.
        begin: called with the number of remaining photos.
        advance: called after each photo.

    Raises:
        MaskError: the folder contains something else, or a network is missing; nothing was written.
    """
    check_masks(job.out, info := job.info)
    missing = missing_shards(job.out, info)
    source = job.source.open() if missing else None
    start_masks(job.out, info)
    begin(sum(len(job.tasks[info.part(shard)]) for shard in missing))
    if source is not None:
        for shard in missing:
            tasks = job.tasks[info.part(shard)]
            write_shard(job.out, shard, shard_records(source, job.photos, tasks=tasks, advance=advance))
    finish(job)


def finish(job: MaskJob) -> None:
    """Index the shards once all are written, and write the files beside them."""
    for name, content in job.beside.items():
        write_beside(job.out, name, content)
    finish_masks(job.out)
