"""Distributed training: join the processes of torchrun, and the collectives that training needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ovsdino_runtime.base.errors import OvsdinoError

PATIENCE = timedelta(minutes=30)  # of the others while rank 0 validates or writes


@dataclass(frozen=True)
class Team:
    """The processes of a training run, seen from one of them."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Tell whether this process writes files and shows progress."""
        return self.rank == 0

    def mean(self, values: Tensor) -> Tensor:
        """Average a tensor over all processes."""
        if self.size == 1:
            return values
        dist.all_reduce(values)
        return values / self.size

    def total(self, values: Tensor) -> Tensor:
        """Sum a tensor over all processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:  # noqa: ANN401 - whatever the processes have to say
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait(self) -> None:
        """Wait until all processes have reached this call."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def join_team(device: str = "auto") -> Iterator[Team]:
    """Join the processes that torchrun started; without torchrun, a team of one.

    Args:
        device: "cpu", "cuda", or "auto" for CUDA if there is a GPU.

    Raises:
        OvsdinoError: CUDA was requested and there is no GPU, or there are more processes than GPUs.
    """
    size, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    chosen = _choose(device, local)
    if size == 1:
        yield Team(0, 1, chosen)
        return
    on_gpu = chosen.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=PATIENCE, device_id=chosen if on_gpu else None
    )
    try:
        yield Team(dist.get_rank(), size, chosen)
    finally:
        dist.destroy_process_group()


def _choose(device: str, local: int) -> torch.device:
    if device == "cpu" or (device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise OvsdinoError(
            "--device cuda: torch finds no GPU here; see `ovsdino doctor`, or take --device cpu"
        )
    if local >= torch.cuda.device_count():
        gpus = torch.cuda.device_count()
        raise OvsdinoError(
            f"torchrun: process {local + 1} of this machine has no GPU, there are {gpus}; "
            f"start --nproc-per-node {gpus}"
        )
    torch.cuda.set_device(local)
    return torch.device("cuda", local)
