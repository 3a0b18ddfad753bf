"""How a photo is cut into windows, written once: training, evaluation and the runtime all cut with this."""

from dataclasses import dataclass
from itertools import product


@dataclass(frozen=True)
class Window:
    """A crop of the resized photo [px]: rows ``top .. top + height``, columns ``left .. left + width``."""

    top: int
    left: int
    height: int
    width: int


@dataclass(frozen=True)
class WindowPolicy:
    """The side of a window and the step from one window to the next [px]."""

    size: int
    stride: int

    def __post_init__(self) -> None:
        """Refuse a stride that leaves gaps.

        Raises:
            ValueError: the stride is not in 1..size.
        """
        if not 1 <= self.stride <= self.size:
            raise ValueError(f"stride must be in 1..{self.size} (the window's side), got {self.stride}")


def window_starts(length: int, *, size: int, stride: int) -> list[int]:
    """Place windows along one side; the last one moves inward instead of hanging over the edge.

    Source: mmsegmentation 0.30, ``EncoderDecoder.slide_inference``.

    Args:
        length: the side to cover [px].
        size: the window's side [px]; a shorter ``length`` is covered by one window.
        stride: step between windows [px].
    """
    count = max(0, -(-(length - size) // stride)) + 1
    return [max(0, min(i * stride, length - size)) for i in range(count)]


def plan_windows(height: int, width: int, *, size: int, stride: int) -> list[Window]:
    """Cover a photo with windows that form a grid.

    A side shorter than ``size`` is covered by one window of that side's length; the engine's input is then a
    stretched crop.

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
    return [Window(top, left, min(size, height), min(size, width)) for top, left in product(tops, lefts)]
