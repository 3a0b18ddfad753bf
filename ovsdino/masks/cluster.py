"""Make the shards on a Ray cluster, whose machines share the photos and the output folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovsdino.masks.errors import MaskError
from ovsdino.masks.make import Advance, MaskJob, finish, shard_records
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import check_masks, start_masks, write_shard
from ovsdino.masks.teachers.source import MaskSource, MaskSourceOptions
from ovsdino.torch_errors import explain
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.cluster.ray import connected, gpus_per_worker

SMALLER = "give a smaller --sam or --detector"  # where memory is short


class ShardMaker:
    """A worker: it holds the networks and makes one shard at a time. Ray replaces a worker that dies."""

    def __init__(self, out: Path, photos: Path, options: MaskSourceOptions) -> None:
        self.out, self.photos, self.options = out, photos, options
        self.source: MaskSource | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make a shard. Return its number of photos, or the reason why it failed.

        Errors that the user can fix are returned as data, because Ray prints a traceback for exceptions.
        """
        try:
            return {"photos": self.make(row), "refused": ""}
        except (OvsdinoError, OSError, MemoryError, RuntimeError) as error:
            if line := explain(error, SMALLER):
                return {"photos": 0, "refused": line}
            raise

    def make(self, row: dict[str, Any]) -> int:
        """Make a shard; return how many photos it has."""
        if self.source is None:
            self.source = self.options.open()
        raw = json.loads(row["tasks"])
        tasks = [PhotoNouns(t["image"], tuple(t["nouns"]), tuple(t["others"])) for t in raw]
        records = shard_records(self.source, self.photos, tasks=tasks, advance=lambda _: None)
        write_shard(self.out, int(row["shard"]), records)
        return len(tasks)


def make_masks_on_cluster(
    job: MaskJob, *, address: str, workers: int, device: str | None, begin: Advance, advance: Advance
) -> None:
    """Make the missing shards with Ray workers.

    Args:
        job: the job; its paths must be valid on every machine.
        address: address of the cluster, such as ``auto`` or ``ray://host:10001``; ``local`` starts one here.
        workers: number of workers, each with its own networks.
        device: device on the worker's machine; None uses a GPU per worker if the cluster has any.
        begin: called with the number of remaining photos.
        advance: called with the number of photos of each finished shard.

    Raises:
        ClusterError: no cluster answers at the address, or its resources do not suffice.
        MaskError: a network is missing, or the folder contains something else.
    """
    check_masks(job.out, info := job.info)
    with connected(address, workers) as resources:
        gpus = gpus_per_worker(device, workers, resources)
        missing = start_masks(job.out, info)
        begin(sum(len(job.tasks[info.part(shard)]) for shard in missing))
        rows = [
            {"shard": shard, "tasks": json.dumps([asdict(task) for task in job.tasks[info.part(shard)]])}
            for shard in missing
        ]
        for done in _run(rows, job, workers=workers, gpus=gpus) if rows else ():
            if done["refused"]:
                raise MaskError(f"a Ray worker: {done['refused']}")
            advance(done["photos"])
    finish(job)


def _run(rows: list[dict[str, Any]], job: MaskJob, *, workers: int, gpus: float) -> Any:  # noqa: ANN401 - Ray's rows
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    maker: Any = ShardMaker  # Ray's hints know functions only
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        maker,
        fn_constructor_args=(job.out.resolve(), job.photos.resolve(), job.source),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
    )
    return data.iter_rows()
