"""The guided filter with a colour guide: scores that follow the edges of a photo.

In every square window a linear function of the colours is fitted to the scores; at each pixel the functions
of all windows that contain it are averaged. Scores stay smooth where the photo is smooth and change at its
edges.

Source: K. He, J. Sun, X. Tang, "Guided Image Filtering", PAMI 2013, equations 15 to 18.
"""

import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import numpy as np

from ovsdino_runtime.geometry.types import Array, Floats

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # entries of a symmetric 3x3 matrix
ROWS = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # of that matrix, as numbers of `PAIRS`
STRIP_PIXELS = 1 << 13  # whose matrices are inverted at once: they stay in the processor's cache


class BoxSum(Protocol):
    """Compute sums over squares of side ``2 * radius + 1``; outside the image values are 0."""

    def __call__(self, planes: Floats, radius: int) -> Floats:
        """Return the sums. Shape: (n, H, W), kept."""


@dataclass(frozen=True, eq=False)
class GuidedFilter:
    """A filter for any number of maps with one guide. Create it with `guided_filter`."""

    guide: Floats  # (3, H, W), each channel's mean is 0
    mean: Floats  # (3, H, W) of the guide in each window
    share: Floats  # (H, W): 1 / pixels of each window
    inverse: Floats  # (6, H, W): of each window's covariance plus epsilon, by `PAIRS`, times `share`
    box_sum: BoxSum
    radius: int  # of the windows [px]

    def __call__(self, maps: Floats) -> Floats:
        """Filter maps one after another, in the same memory. Shape: (n, H, W), kept."""
        filtered = np.empty_like(maps)
        planes = np.empty((4, *maps.shape[1:]), np.float32)
        spare = np.empty(maps.shape[1:], np.float32)
        for index, scores in enumerate(maps):
            np.multiply(self.guide, scores, out=planes[:3])
            planes[3] = scores
            sums = self.box_sum(planes, self.radius)  # (4, H, W)
            self._fit(sums, planes, spare)
            sums = self.box_sum(planes, self.radius)  # of each window's slopes and shift
            np.multiply(sums[:3], self.guide, out=sums[:3])
            sums[0] += sums[1]
            sums[2] += sums[3]
            sums[0] += sums[2]
            np.multiply(sums[0], self.share, out=filtered[index])
        return filtered

    def _fit(self, sums: Floats, linear: Floats, spare: Floats) -> None:
        """Fit each window's scores by its colours: three slopes and a shift. Shape: (4, H, W) each.

        Args:
            sums: over each window, of scores times colour and of scores; overwritten.
            linear: is filled.
            spare: of one plane, overwritten.
        """
        for index, mean in enumerate(self.mean):  # covariances, times the pixels of a window
            sums[index] -= np.multiply(mean, sums[3], out=spare)
        np.multiply(sums[3], self.share, out=linear[3])
        for index, row in enumerate(ROWS):
            slope = np.multiply(self.inverse[row[0]], sums[0], out=linear[index])
            slope += np.multiply(self.inverse[row[1]], sums[1], out=spare)
            slope += np.multiply(self.inverse[row[2]], sums[2], out=spare)
        for slope, mean in zip(linear, self.mean, strict=False):
            linear[3] -= np.multiply(slope, mean, out=spare)


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
    share = 1 / add(np.ones((1, *guide.shape[:2]), np.float32), radius)[0]  # (H, W)
    mean = add(channels, radius)
    mean *= share
    squares = np.empty((len(PAIRS), *share.shape), np.float32)
    for square, (i, j) in zip(squares, PAIRS, strict=True):
        np.multiply(channels[i], channels[j], out=square)
    squares = add(squares, radius)
    squares *= share
    for index, (i, j) in enumerate(PAIRS):
        squares[index] -= mean[i] * mean[j]
        if i == j:
            squares[index] += np.float32(epsilon)
    step = max(1, STRIP_PIXELS // share.shape[1])
    for top in range(0, len(share), step):
        squares[:, top : top + step] = _invert(squares[:, top : top + step])
    squares *= share
    return GuidedFilter(channels, mean, share, squares, add, radius)


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
