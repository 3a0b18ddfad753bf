"""Intermediate sums of an analysis on disk, so that the same command resumes it."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.regular_file import regular_file

log = logging.getLogger(__name__)
SECONDS = 30.0  # between two saves


class Sums(Protocol):
    """Sums over photos."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors."""

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""


@dataclass(frozen=True)
class AnalysisProgress:
    """Progress of a run."""

    batches: int = 0  # gone through
    photos: int = 0  # of them, those that could be read


class Partial:
    """A file of intermediate sums beside the results. Each analysis has its own.

    Args:
        folder: folder of the file; None stores nothing.
        key: everything that decides the result; see `hash_settings`.
        sums: the sums to store.
        clock: returns the time [s]; decides when to save.
    """

    def __init__(
        self,
        folder: Path | None,
        key: str,
        *,
        sums: Sequence[Sums],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = None if folder is None else folder / f".partial-{key[:12]}.safetensors"
        self._key, self._sums, self._clock = key, sums, clock
        self._saved = clock()

    def load(self) -> AnalysisProgress:
        """Restore the sums and return the progress. Do nothing if there is no file of this run.

        A damaged file is not used; a warning says so.
        """
        if self._file is None or not self._file.exists():
            return AnalysisProgress()
        try:
            with safe_open(regular_file(self._file), framework="pt") as file:
                about = file.metadata() or {}
                if about.get("key") != self._key:
                    return AnalysisProgress()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            if about.get("digest") != _hash(tensors, about):
                raise ValueError("its digest is another one")
        except (OSError, SafetensorError, ValueError) as error:
            log.warning("%s: damaged, the analysis begins anew: %s", self._file, error)
            return AnalysisProgress()
        for number, sums in enumerate(self._sums):
            prefix = f"{number}."
            sums.restore({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        return AnalysisProgress(int(about["batches"]), int(about["photos"]))

    def save(self, progress: AnalysisProgress) -> None:
        """Write the sums atomically, unless they were written recently."""
        if self._file is None or self._clock() - self._saved < SECONDS:
            return
        tensors = {
            f"{number}.{name}": tensor.cpu().contiguous()
            for number, sums in enumerate(self._sums)
            for name, tensor in sums.tensors().items()
        }
        about = {"key": self._key, "batches": str(progress.batches), "photos": str(progress.photos)}
        about["digest"] = _hash(tensors, about)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(self._file) as partial:
            save_file(tensors, partial, metadata=about)
        self._saved = self._clock()

    def remove(self) -> None:
        """Delete the file once the results are written."""
        if self._file is not None:
            self._file.unlink(missing_ok=True)


def _hash(tensors: Mapping[str, Tensor], about: Mapping[str, str]) -> str:
    """Hash everything in a file but the hash itself."""
    state = hashlib.sha256(repr(sorted((k, v) for k, v in about.items() if k != "digest")).encode())
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        state.update(tensor.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()


def hash_settings(modules: Sequence[nn.Module], *settings: object) -> str:
    """Hash the encoders' weights and the options."""
    state = hashlib.sha256(repr(settings).encode())
    for module in modules:
        for name, value in module.state_dict().items():
            state.update(name.encode())
            state.update(value.cpu().contiguous().numpy().tobytes())
    return state.hexdigest()
