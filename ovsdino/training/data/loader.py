"""Micro-batches, loaded ahead of their use."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader

from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset
from ovsdino.training.data.plan import Epoch, micro_batches
from ovsdino.training.distributed import Team

PREFETCH = 4  # micro-batches that each worker has ready


class Loader:
    """Loads this process's micro-batches ahead of their use, with the same workers in all epochs of a phase.

    Args:
        data: the photos.
        workers: how many processes load them; 0 for none but this one.
        team: this process and the others.
    """

    def __init__(self, data: MaskDataset, workers: int, team: Team) -> None:
        self.data, self.team = data, team
        self._batches: list[list[int]] = []  # of the epoch; the loader reads it anew in each
        self._loader = DataLoader(
            data,
            batch_sampler=self._batches,
            collate_fn=data.collate,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
            persistent_workers=workers > 0,
            pin_memory=team.device.type == "cuda",
        )

    def load(self, epoch: Epoch, done: int = 0) -> Iterator[Batch]:
        """Load what is left of an epoch, of which some steps are done."""
        self.data.set_epoch(epoch.number)
        self._batches[:] = micro_batches(epoch, done, rank=self.team.rank, processes=self.team.size)
        return iter(self._loader)
