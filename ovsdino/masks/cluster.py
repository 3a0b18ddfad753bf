"""The same shards by many processes: Ray Data over a cluster whose machines share photos and folder."""

from __future__ import annotations

import json
import logging
import re
import socket
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovsdino.masks.make import Advance, Job, finish, shard_records
from ovsdino.masks.nouns import PhotoNouns
from ovsdino.masks.shards import MaskError, check_masks, start_masks, write_shard
from ovsdino.masks.source import SourceOptions

PATIENCE = 10.0  # [s] for the cluster to answer
# How the text of Ray's error ends where a worker refuses: a traceback's last line.
REFUSED = re.compile(r"(?:MaskError|OutOfMemoryError): (.+)\s*\Z")
LOCAL = "local"  # the address that stands for a Ray of our own, on this machine


class ShardMaker:
    """One worker: holds the networks, makes a shard at a time. Ray starts another one if it dies."""

    def __init__(self, out: Path, photos: Path, options: SourceOptions) -> None:
        self.out, self.photos, self.source = out, photos, options.open()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Make a shard, and say how many photos it has."""
        raw = json.loads(row["tasks"])
        tasks = [PhotoNouns(t["image"], tuple(t["nouns"]), tuple(t["others"])) for t in raw]
        records = shard_records(self.source, self.photos, tasks, lambda _: None)
        write_shard(self.out, int(row["shard"]), records)
        return {"photos": len(tasks)}


def make_masks_on_cluster(
    job: Job, *, address: str, workers: int, device: str | None, begin: Advance, advance: Advance
) -> None:
    """Make the shards that are missing with Ray workers.

    Args:
        job: what is to be made; its paths must mean the same on every machine.
        address: of the cluster, such as ``auto`` or ``ray://host:10001``; ``local`` starts one here.
        workers: how many, each with networks of its own.
        device: each worker looks for it on its machine; None takes a GPU each where the cluster has any.
        begin: told how many photos are left to do.
        advance: told of the photos of each shard that is done.

    Raises:
        MaskError: no cluster is at the address, no GPU in it, a network is missing, or the folder holds
            something else.
    """
    import ray

    check_masks(job.out, info := job.info)
    _connect(address, workers)
    try:
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        gpus = gpus_each(device, there.get("GPU", 0))
        missing = start_masks(job.out, info)
        begin(sum(len(job.tasks[info.part(shard)]) for shard in missing))
        rows = [
            {"shard": shard, "tasks": json.dumps([asdict(task) for task in job.tasks[info.part(shard)]])}
            for shard in missing
        ]
        for done in _run(rows, job, workers, gpus) if rows else ():
            advance(done["photos"])
    except ray.exceptions.RayError as error:
        if refused := REFUSED.search(str(error)):
            raise MaskError(f"a Ray worker: {refused[1]}") from error
        raise
    finally:
        ray.shutdown()
    finish(job)


def gpus_each(device: str | None, there: float) -> float:
    """Say how many GPUs a worker asks for, of those in the cluster.

    Raises:
        MaskError: a GPU is wanted and there is none; Ray would wait for it for ever.
    """
    if device is None:
        return float(there > 0)
    wanted = device.startswith("cuda")
    if wanted and not there:
        raise MaskError(f"--device {device}: the Ray cluster has no GPU; give cpu, or add one")
    return float(wanted)


def _connect(address: str, workers: int) -> None:
    import ray

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        if address == LOCAL:  # one processor more than workers, for what Ray itself does
            ray.init(
                num_cpus=workers + 1,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
        else:
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:160]
        raise MaskError(f"--ray {address}: no Ray cluster answers there ({why})") from error


def _knock(address: str) -> None:
    """Ask for a connection first: Ray itself waits for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()


def _run(rows: list[dict[str, Any]], job: Job, workers: int, gpus: float) -> Any:  # noqa: ANN401 - Ray's rows
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    maker: Any = ShardMaker  # Ray's hints know functions only
    data = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        maker,
        fn_constructor_args=(job.out.resolve(), job.photos.resolve(), job.source),
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_gpus=gpus,
        max_restarts=-1,
        max_task_retries=-1,
    )
    return data.iter_rows()
