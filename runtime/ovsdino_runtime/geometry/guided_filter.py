"""The guided filter with a colour guide: scores that follow the edges of a photo.

In every square window a linear function of the colours is fitted to the scores; at each pixel the functions
of all windows that contain it are averaged. Scores stay smooth where the photo is smooth and change at its
edges.

Source: K. He, J. Sun, X. Tang, "Guided Image Filtering", PAMI 2013, equations 15 to 18.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from ovsdino_runtime.geometry.types import Array, Floats

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # entries of a symmetric 3x3 matrix


class BoxSum(Protocol):
    """Compute sums over squares of side ``2 * radius + 1``; outside the image values are 0."""

    def __call__(self, planes: Floats, radius: int) -> Floats:
        """Return the sums. Shape: (n, H, W), kept."""


@dataclass(frozen=True, eq=False)
class GuidedFilter:
    """A filter for any number of maps with one guide. Create it with `guided_filter`."""

    guide: Floats  # (3, H, W), each channel's mean is 0
    mean: Floats  # (3, H, W) of the guide in each window
    inverse: Floats  # (6, H, W): of each window's covariance plus epsilon, by `PAIRS`
    box_mean: Callable[[Floats], Floats]  # over each window: (n, H, W), kept

    def __call__(self, scores: Floats) -> Floats:
        """Filter one map. Shape: (H, W), kept."""
        products = np.empty((4, *scores.shape), np.float32)
        np.multiply(self.guide, scores, out=products[:3])
        products[3] = scores
        means = self.box_mean(products)  # (4, H, W)
        covariance = means[:3]
        covariance -= self.mean * means[3]
        rr, rg, rb, gg, gb, bb = self.inverse
        r, g, b = covariance
        linear = np.empty_like(products)
        linear[0] = rr * r + rg * g + rb * b
        linear[1] = rg * r + gg * g + gb * b
        linear[2] = rb * r + gb * g + bb * b
        linear[3] = means[3] - (linear[:3] * self.mean).sum(axis=0)
        linear = self.box_mean(linear)
        filtered: Floats = (linear[:3] * self.guide).sum(axis=0)
        filtered += linear[3]
        return filtered


def guided_filter(
    guide: Array, *, radius: int, epsilon: float, box_sum: BoxSum | None = None
) -> GuidedFilter:
    """Prepare a filter for a guide.

    Args:
        guide: the photo, in 0..255.
        radius: windows have a side of ``2 * radius + 1`` [px].
        epsilon: variance of a colour, of channels in 0..1, below which a window counts as smooth. Choose less
            to follow weaker edges.
        box_sum: computes the sums over squares; None uses OpenCV if it is installed, else `add_squares`.

    Shape: guide (H, W, 3).
    """
    add = box_sum or best_box_sum()
    channels = np.ascontiguousarray(guide.transpose(2, 0, 1), dtype=np.float32)  # (3, H, W)
    channels *= np.float32(1 / 255)
    channels -= channels.mean(axis=(1, 2), keepdims=True)  # of small numbers float32 holds the squares
    share = 1 / add(np.ones((1, *guide.shape[:2]), np.float32), radius)  # (1, H, W)

    def box_mean(planes: Floats) -> Floats:
        means = add(planes, radius)
        means *= share
        return means

    mean = box_mean(channels)
    squares = box_mean(np.stack([channels[i] * channels[j] for i, j in PAIRS]))  # (6, H, W)
    for index, (i, j) in enumerate(PAIRS):
        squares[index] -= mean[i] * mean[j]
        if i == j:
            squares[index] += np.float32(epsilon)
    return GuidedFilter(channels, mean, _invert(squares), box_mean)


def add_squares(planes: Floats, radius: int) -> Floats:
    """Compute sums over squares, one axis after the other; time grows with the logarithm of the radius.

    Shape: (n, H, W), kept.
    """
    return _add_runs(_add_runs(planes, radius, axis=2), radius, axis=1)


@cache
def best_box_sum() -> BoxSum:
    """Return OpenCV's box filter if it is installed, else `add_squares`."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        return add_squares
    return lambda planes, radius: _add_by_opencv(cv2, planes, radius)


def _add_by_opencv(cv2: Any, planes: Floats, radius: int) -> Floats:  # noqa: ANN401 - it ships no types
    sums = np.empty_like(planes)
    side = (2 * radius + 1, 2 * radius + 1)
    for plane, out in zip(planes, sums, strict=True):
        cv2.boxFilter(plane, -1, side, dst=out, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return sums


def _add_runs(planes: Floats, radius: int, *, axis: int) -> Floats:
    """Compute sums of ``2 * radius + 1`` adjacent values along an axis; outside it values are 0.

    A sum is composed of sums of 1, 2, 4, ... values. That is faster than running sums, in which each value
    depends on the previous one, and loses no digits.
    """
    length = planes.shape[axis]
    size = list(planes.shape)
    size[axis] += 2 * radius
    runs = np.zeros(size, np.float32)  # of `count` values each
    runs[_along(axis, radius, radius + length)] = planes
    count, begin, left = 1, 0, 2 * radius + 1
    total = np.zeros_like(planes)
    while left:
        if left & 1:
            total += runs[_along(axis, begin, begin + length)]
            begin += count
        left >>= 1
        if left:
            runs = runs[_along(axis, 0, -count)] + runs[_along(axis, count, None)]
            count *= 2
    return total


def _along(axis: int, start: int, stop: int | None) -> tuple[slice, ...]:
    return tuple(slice(start, stop) if side == axis else slice(None) for side in range(3))


def _invert(matrices: Floats) -> Floats:
    """Invert symmetric 3x3 matrices, in float64: colours are often nearly grey. Shape: (6, H, W), kept."""
    rr, rg, rb, gg, gb, bb = matrices.astype(np.float64)
    adjugate = np.stack(
        (
            gg * bb - gb * gb,
            rb * gb - rg * bb,
            rg * gb - rb * gg,
            rr * bb - rb * rb,
            rb * rg - rr * gb,
            rr * gg - rg * rg,
        )
    )
    determinant = rr * adjugate[0] + rg * adjugate[1] + rb * adjugate[2]
    inverse: Floats = (adjugate / determinant).astype(np.float32)
    return inverse
