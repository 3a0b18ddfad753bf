"""What makes masks, whatever it is made of: a photo and its nouns in, what is known of it out."""

from __future__ import annotations

from typing import Protocol

from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.store.shards import PhotoMasks
from ovsdino_runtime.geometry.types import Photo


class Source(Protocol):
    """A teacher, or several that work together, with their networks loaded."""

    def __call__(self, photo: Photo, task: PhotoNouns) -> PhotoMasks:
        """Find the masks of a photo. Shape: photo (H, W, 3) RGB."""
        ...


class SourceOptions(Protocol):
    """How to open a source; small, so that it can be sent to other processes."""

    @property
    def name(self) -> str:
        """The source's name in the shards."""
        ...

    def described(self) -> dict[str, object]:
        """Return what the masks depend on, for ``masks.json``: a run that is resumed must agree with it."""
        ...

    def open(self) -> Source:
        """Load the networks.

        Raises:
            MaskError: one is missing; names the file and the command that gets it.
        """
        ...
