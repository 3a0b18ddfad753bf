"""Sources of pictures (photos, videos, cameras) and the frames read from them."""

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
    """A photo, a video file, or a live source: a camera's number or a stream's address."""

    kind: Literal["photo", "video", "live"]
    address: str

    @property
    def name(self) -> str:
        """The address without its password, for messages."""
        if self.kind == "live" and self.address.isdigit():
            return f"camera {self.address}"
        return without_password(self.address)

    @property
    def path(self) -> PurePath:
        """The path of the file or within the address."""
        return address_path(self.address) if is_address(self.address) else Path(self.address)

    @property
    def stem(self) -> str:
        """The file name of its results, without suffix."""
        if self.kind != "live":
            return self.path.stem
        place = re.sub(r"^\w+://", "", self.name).partition("?")[0]
        return re.sub(r"[^\w.-]+", "-", place).strip("-.") or "stream"


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture from a source, or the error that prevented reading it."""

    source: Source
    photo: Photo | None  # (H, W, 3) RGB; None: see `error`
    error: PhotoError | None = None
    index: int = 0  # index within the source
    time: float = 0.0  # [s] since the start of the source
    rate: float = 0.0  # [1/s] frame rate of a video, where known
    decode: float = 0.0  # [ms] decoding time
    notes: tuple[str, ...] = ()  # choices made while decoding; one line each
    valid: npt.NDArray[np.bool_] | None = (
        None  # (H, W); False: the pixel holds no data. None: every pixel holds data
    )
    live: bool = False  # live sources: an old picture may be dropped for a newer one
