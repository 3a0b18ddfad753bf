"""Cut a photo into windows. Training, evaluation and the runtime all use this module."""

from dataclasses import dataclass
from itertools import product

import numpy as np

from ovsdino_runtime.geometry.types import Floats

MAX_TAPER = 0.5  # share of a window's side: the weight rises up to its middle


@dataclass(frozen=True)
class Window:
    """A crop of the resized photo [px]: rows ``top .. top + height``, columns ``left .. left + width``."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class WindowPolicy:
    """How a photo is cut into windows, and how pixels are weighted where windows overlap.

    Args:
        size: side of a window [px].
        stride: step from one window to the next [px].
        taper: share of a window's side, in 0..0.5, over which its weight rises from the edge; see
            `window_weights`. None weights all pixels equally, as in the papers' protocols.
    """

    size: int
    stride: int
    taper: float | None = None

    def __post_init__(self) -> None:
        """Reject a stride that leaves gaps and an invalid taper.

        Raises:
            ValueError: the stride is not in 1..size, or the taper is not in 0..0.5.
        """
        if not 1 <= self.stride <= self.size:
            raise ValueError(f"stride must be in 1..{self.size} (the window's side), got {self.stride}")
        if self.taper is not None and not 0 < self.taper <= MAX_TAPER:
            raise ValueError(f"taper must be above 0 and at most {MAX_TAPER}, got {self.taper}")


def window_starts(length: int, *, size: int, stride: int) -> list[int]:
    """Place windows along one axis; the last one moves inward instead of reaching over the edge.

    Source: mmsegmentation 0.30, ``EncoderDecoder.slide_inference``.

    Args:
        length: length of the axis [px].
        size: side of a window [px]; a shorter ``length`` is covered by one window.
        stride: step between windows [px].
    """
    count = max(0, -(-(length - size) // stride)) + 1
    return [max(0, min(i * stride, length - size)) for i in range(count)]


def window_weights(length: int, taper: float | None) -> Floats:
    """Return the weights of pixels along one axis of a window, for the average of overlapping windows.

    ``weight(i) = min(1, (d + 0.5) / (taper * length))``, where d is the distance of pixel i to the nearer
    edge [px]. A window counts least at its edges, where it shows the least context around a pixel; so labels
    do not change abruptly where a window ends.

    Args:
        length: side of the window [px].
        taper: share of the side over which the weight rises; None: all weights are 1.

    Shape: (length,) in (0, 1].
    """
    if taper is None:
        return np.ones(length, np.float32)
    pixels = np.arange(length, dtype=np.float32)
    distance = np.minimum(pixels, pixels[::-1]) + 0.5  # [px] from the centre of a pixel to the edge
    weights: Floats = np.minimum(1, distance / np.float32(taper * length))
    return weights


def plan_windows(height: int, width: int, *, size: int, stride: int) -> list[Window]:
    """Cover a photo with windows that form a grid.

    A side shorter than ``size`` is covered by one window of that length, which is stretched for the engine.

    Args:
        height, width: size of the resized photo [px], each at least 1.
        size: the window's side [px].
        stride: step between windows [px], 1..size.

    Returns:
        Windows in row-major order, all inside the photo. Every pixel lies in at least one of them.

    Raises:
        ValueError: the photo is empty, or the stride leaves gaps.
    """
    if min(height, width) < 1:
        raise ValueError(f"a photo must have at least 1x1 px, got {height}x{width}")
    policy = WindowPolicy(size, stride)
    tops = window_starts(height, size=policy.size, stride=policy.stride)
    lefts = window_starts(width, size=policy.size, stride=policy.stride)
    return [
        Window(top=top, left=left, height=min(size, height), width=min(size, width))
        for top, left in product(tops, lefts)
    ]
