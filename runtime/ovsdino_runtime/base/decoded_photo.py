"""A photo as its file has it, with what its reader had to decide."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Photo


@dataclass(frozen=True, eq=False)
class DecodedPhoto:
    """The pixels of a photo, upright, and remarks for whoever reads the result."""

    photo: Photo  # (H, W, 3) RGB
    notes: tuple[str, ...] = ()  # what was decided, one line each
    valid: npt.NDArray[np.bool_] | None = None  # (H, W); False: no data there. None: data everywhere

    def with_notes(self, *notes: str) -> "DecodedPhoto":
        """Add notes behind the others."""
        return replace(self, notes=(*self.notes, *notes))
