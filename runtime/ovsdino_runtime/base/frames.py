"""Sources of pictures, and the pictures that come from them."""

import re
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Literal

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.photo_address import address_path, is_address, without_password
from ovsdino_runtime.geometry.types import Photo


@dataclass(frozen=True)
class Source:
    """One photo, one video file, or a live source: a camera's number or the address of a stream."""

    kind: Literal["photo", "video", "live"]
    address: str

    @property
    def name(self) -> str:
        """The address as it may be shown: without a password."""
        if self.kind == "live" and self.address.isdigit():
            return f"camera {self.address}"
        return without_password(self.address)

    @property
    def path(self) -> PurePath:
        """The file's path, or that of its address."""
        return address_path(self.address) if is_address(self.address) else Path(self.address)

    @property
    def stem(self) -> str:
        """What its results are named after."""
        if self.kind != "live":
            return self.path.stem
        place = re.sub(r"^\w+://", "", self.name).partition("?")[0]
        return re.sub(r"[^\w.-]+", "-", place).strip("-.") or "stream"


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture of a source, or what is wrong with it."""

    source: Source
    photo: Photo | None  # (H, W, 3) RGB; None: see the error
    error: PhotoError | None = None
    index: int = 0  # in its source
    time: float = 0.0  # [s] since the source began
    rate: float = 0.0  # [1/s] of a video, as far as it is known
    decode: float = 0.0  # [ms] that it took
    notes: tuple[str, ...] = ()  # what had to be decided to read it
    valid: npt.NDArray[np.bool_] | None = None  # (H, W); False: no data there. None: data everywhere
    live: bool = False  # the world does not wait: an old picture may be dropped for a new one
