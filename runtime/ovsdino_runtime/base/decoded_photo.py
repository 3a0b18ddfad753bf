"""The result of decoding a photo: pixels, pixels without data, and notes."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import PhotoWarning
from ovsdino_runtime.geometry.types import Photo


@dataclass(frozen=True, eq=False)
class DecodedPhoto:
    """The pixels of a decoded photo, upright, with notes for the user."""

    photo: Photo  # (H, W, 3) RGB
    notes: tuple[str, ...] = ()  # choices made while decoding, such as a guessed bit depth; one line each
    valid: npt.NDArray[np.bool_] | None = (
        None  # (H, W); False: the pixel holds no data. None: every pixel holds data
    )

    def warn(self, name: str = "") -> None:
        """Issue a `PhotoWarning` for each note.

        Args:
            name: the photo's name in the warnings.
        """
        for note in self.notes:
            warnings.warn(f"{name}: {note}" if name else note, PhotoWarning, stacklevel=3)

    def with_notes(self, *notes: str) -> "DecodedPhoto":
        """Return a copy with further notes at the end."""
        return replace(self, notes=(*self.notes, *notes))
