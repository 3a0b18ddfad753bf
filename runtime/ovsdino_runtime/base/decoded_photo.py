"""A photo as its file has it, with what its reader had to decide."""

import warnings
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import PhotoWarning
from ovsdino_runtime.geometry.types import Photo


@dataclass(frozen=True, eq=False)
class DecodedPhoto:
    """The pixels of a photo, upright, and remarks for whoever reads the result."""

    photo: Photo  # (H, W, 3) RGB
    notes: tuple[str, ...] = ()  # what was decided, one line each
    valid: npt.NDArray[np.bool_] | None = None  # (H, W); False: no data there. None: data everywhere

    def warn(self, name: str = "") -> None:
        """Warn with a `PhotoWarning` of each note.

        Args:
            name: of the photo, as it is to be shown.
        """
        for note in self.notes:
            warnings.warn(f"{name}: {note}" if name else note, PhotoWarning, stacklevel=3)

    def with_notes(self, *notes: str) -> "DecodedPhoto":
        """Add notes behind the others."""
        return replace(self, notes=(*self.notes, *notes))
