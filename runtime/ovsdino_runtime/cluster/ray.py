"""Connect to a Ray cluster, or start Ray on this machine."""

import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from ovsdino_runtime.base.errors import OvsdinoError

PATIENCE = 10.0  # [s] for the cluster to answer
LOCAL = "local"  # the address that stands for a Ray of our own, on this machine
LOCAL_STORE = 128 << 20  # [bytes] for what passes between its processes: names and figures, no photos


class ClusterError(OvsdinoError):
    """The cluster does not answer, or its resources do not suffice."""


@contextmanager
def connected(address: str, processors: int) -> Iterator[Mapping[str, float]]:
    """Connect to a cluster for the duration of the block; yield its resources: ``{"CPU": 16, "GPU": 1}``.

    Args:
        address: such as ``auto`` or ``ray://host:10001``; ``local`` starts Ray on this machine.
        processors: number of processors that the work needs; used by ``local``.

    Raises:
        ClusterError: no cluster answers.
    """
    import ray
    import ray.data  # noqa: F401 - sets its logger up

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _hide_ray_messages():
        _connect(address, processors)
        try:
            resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            yield resources
        finally:
            ray.shutdown()


@contextmanager
def _hide_ray_messages() -> Iterator[None]:
    """Hide what Ray's C++ code writes to file descriptor 2, such as the progress of Ray Data's actors.

    Ray's log files contain it as well. Python's own output is not affected.
    """
    before, screen = sys.stderr, os.dup(2)
    with open(os.devnull, "wb") as nowhere, open(screen, "w", buffering=1, errors="backslashreplace") as ours:  # noqa: PTH123 - a descriptor
        os.dup2(nowhere.fileno(), 2)
        if before is sys.__stderr__:
            sys.stderr = ours
        try:
            yield
        finally:
            sys.stderr = before
            ours.flush()
            os.dup2(screen, 2)


def gpus_per_worker(
    device: str | None, workers: int, resources: Mapping[str, float], *, processors: int = 1
) -> float:
    """Return the number of GPUs that each worker requests.

    Args:
        device: device of a worker's models; None uses a GPU if the cluster has one.
        workers: number of workers.
        resources: resources of the cluster, such as ``{"CPU": 16, "GPU": 1}``.
        processors: number of processors per worker.

    Raises:
        ClusterError: there are fewer GPUs or processors than workers; Ray would wait for them forever.
    """
    cpus, gpus = resources.get("CPU", 0), resources.get("GPU", 0)
    wanted = gpus > 0 if device is None else device.startswith("cuda")
    if wanted and not gpus:
        raise ClusterError(f"--device {device}: the Ray cluster has no GPU; give cpu, or add one")
    if wanted and workers > gpus:
        raise ClusterError(
            f"--workers {workers}: each takes a GPU, the Ray cluster has {gpus:g}; "
            "give so many, or --device cpu"
        )
    if workers * processors > cpus:
        takes = "a processor" if processors == 1 else f"{processors} processors"
        raise ClusterError(
            f"--workers {workers}: each takes {takes}, the Ray cluster has {cpus:g}; give so many"
        )
    return float(wanted)


def _connect(address: str, processors: int) -> None:
    import ray

    try:
        if address == LOCAL:  # one processor more, for what Ray itself does
            ray.init(
                num_cpus=processors + 1,
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
                object_store_memory=LOCAL_STORE,
            )
        else:
            _check_reachable(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        what = "Ray did not start here" if address == LOCAL else "no Ray cluster answers there"
        raise ClusterError(f"--ray {address}: {what} ({why})") from error


def _check_reachable(address: str) -> None:
    """Open a connection first: Ray itself waits for minutes if nothing answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
