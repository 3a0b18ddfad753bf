"""Load micro-batches in advance."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import DataLoader

from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset
from ovsdino.training.data.plan import Epoch, micro_batches
from ovsdino.training.distributed import Team

PREFETCH = 4  # micro-batches that each worker has ready


class Loader:
    """Load the micro-batches of this process in advance, with the same workers for all epochs of a phase.

    Args:
        data: the data set.
        workers: number of loader processes; 0 loads in this process.
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
        """Yield the micro-batches of an epoch after its first ``done`` steps."""
        self.data.set_epoch(epoch.number)
        self._batches[:] = micro_batches(epoch, done, rank=self.team.rank, processes=self.team.size)
        return iter(self._loader)
