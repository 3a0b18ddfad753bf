"""A Ray cluster: one that is there, or one of our own on this machine."""

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
    """There is no such cluster, or it has not what is asked of it."""


@contextmanager
def connected(address: str, processors: int) -> Iterator[Mapping[str, float]]:
    """Be connected to a cluster, and know what it has, such as ``{"CPU": 16, "GPU": 1}``.

    Args:
        address: such as ``auto`` or ``ray://host:10001``; ``local`` starts a Ray here.
        processors: that the work will take; for ``local``.

    Raises:
        ClusterError: nobody answers.
    """
    import ray
    import ray.data  # which sets its logger up

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    with _without_rays_own():
        _connect(address, processors)
        try:
            there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
            yield there
        finally:
            ray.shutdown()


@contextmanager
def _without_rays_own() -> Iterator[None]:
    """Keep what Ray's C++ writes to file 2 off the screen, for instance of how Ray Data makes its actors.

    Its logs have it as well. What Python prints goes where it went.
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


def gpus_each(device: str | None, workers: int, there: Mapping[str, float], *, processors: int = 1) -> float:
    """Say how many GPUs a worker asks for, of what is in the cluster.

    Args:
        device: where a worker's models run; None takes a GPU where the cluster has any.
        workers: how many there will be.
        there: what the cluster has.
        processors: that each worker takes.

    Raises:
        ClusterError: there are fewer GPUs or processors than workers; Ray would wait for them for ever.
    """
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
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
            _knock(address)
            ray.init(address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:
        why = " ".join(str(error).split())[:160]
        what = "Ray did not start here" if address == LOCAL else "no Ray cluster answers there"
        raise ClusterError(f"--ray {address}: {what} ({why})") from error


def _knock(address: str) -> None:
    """Ask for a connection first: Ray itself waits for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), timeout=PATIENCE).close()
