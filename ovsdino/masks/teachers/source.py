"""The interface of a source of masks: photo and nouns in, record of the photo out."""

from __future__ import annotations

from typing import Protocol

from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import PhotoMasks
from ovsdino_runtime.geometry.types import Photo


class MaskSource(Protocol):
    """One or several loaded teachers."""

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Find the masks of a photo. Shape: photo (H, W, 3) RGB."""
        ...


class MaskSourceOptions(Protocol):
    """Options from which a source is opened; small enough to be sent to other processes."""

    @property
    def name(self) -> str:
        """The source's name in the shards."""
        ...

    def describe(self) -> dict[str, object]:
        """Return everything that the masks depend on, for ``masks.json``; a resumed run must match it."""
        ...

    def open(self) -> MaskSource:
        """Load the networks.

        Raises:
            MaskError: a network is missing; the message names the file and the command that downloads it.
        """
        ...
