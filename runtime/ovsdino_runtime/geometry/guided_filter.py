"""The guided filter with a colour guide: scores that follow the edges of a photo.

In every square window a linear function of the colours is fitted to the scores; at each pixel the functions
of all windows that contain it are averaged. Scores stay smooth where the photo is smooth and change at its
edges.

Source: K. He, J. Sun, X. Tang, "Guided Image Filtering", PAMI 2013, equations 15 to 18.
"""

import importlib
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, Protocol

import numpy as np

from ovsdino_runtime.geometry.types import Array, Floats

PAIRS = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))  # entries of a symmetric 3x3 matrix
ROWS = ((0, 1, 2), (1, 3, 4), (2, 4, 5))  # of that matrix, as numbers of `PAIRS`
STRIP_PIXELS = 1 << 13  # computed at once: their values of all planes stay in the processor's cache
BOX_PIXELS = 48 << 10  # likewise in sums over squares, of one plane


class BoxSum(Protocol):
    """Compute sums over squares of side ``2 * radius + 1``; outside the image values are 0."""

    def __call__(self, planes: Floats, radius: int, *, out: Floats | None = None) -> Floats:
        """Return the sums, in ``out`` if it is given. Shape: (n, H, W), kept."""


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
        sums = np.empty_like(planes)
        strips = _strips(*maps.shape[1:])
        spare = np.empty_like(planes[0, strips[0]])
        for scores, result in zip(maps, filtered, strict=True):
            np.multiply(self.guide, scores, out=planes[:3])
            planes[3] = scores
            self.box_sum(planes, self.radius, out=sums)
            for strip in strips:
                self._fit(
                    strip, sums[:, strip], linear=planes[:, strip], spare=spare[: strip.stop - strip.start]
                )
            self.box_sum(planes, self.radius, out=sums)  # of each window's slopes and shift
            for strip in strips:
                self._apply(strip, sums[:, strip], result[strip])
        return filtered

    def _fit(self, strip: slice, sums: Floats, *, linear: Floats, spare: Floats) -> None:
        """Fit the scores of a strip's windows by their colours: three slopes and a shift.

        Args:
            strip: the rows.
            sums: over each window, of scores times colour and of scores; overwritten.
            linear: is filled.
            spare: of one plane, overwritten.

        Shape: (4, rows, W) each.
        """
        means, inverse = self.mean[:, strip], self.inverse[:, strip]
        for index, mean in enumerate(means):  # covariances, times the pixels of a window
            sums[index] -= np.multiply(mean, sums[3], out=spare)
        np.multiply(sums[3], self.share[strip], out=linear[3])
        for index, row in enumerate(ROWS):
            slope = np.multiply(inverse[row[0]], sums[0], out=linear[index])
            slope += np.multiply(inverse[row[1]], sums[1], out=spare)
            slope += np.multiply(inverse[row[2]], sums[2], out=spare)
        for slope, mean in zip(linear, means, strict=False):
            linear[3] -= np.multiply(slope, mean, out=spare)

    def _apply(self, strip: slice, sums: Floats, result: Floats) -> None:
        """Apply the mean of the windows' functions to the guide. Shape: (4, rows, W), overwritten."""
        sums[:3] *= self.guide[:, strip]
        sums[0] += sums[1]
        sums[2] += sums[3]
        sums[0] += sums[2]
        np.multiply(sums[0], self.share[strip], out=result)


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
    lengths = (_window_lengths(length, radius) for length in guide.shape[:2])
    share: Floats = np.reciprocal(np.outer(*lengths), dtype=np.float32)  # (H, W)
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
    for strip in _strips(*share.shape):
        squares[:, strip] = _invert(squares[:, strip])
    squares *= share
    return GuidedFilter(guide=channels, mean=mean, share=share, inverse=squares, box_sum=add, radius=radius)


def _window_lengths(length: int, radius: int) -> Floats:
    """Return how many pixels of an axis lie in the window around each. Shape: (length,)."""
    pixels = np.arange(length)
    inside = np.minimum(pixels + radius, length - 1) - np.maximum(pixels - radius, 0) + 1
    return inside.astype(np.float32)


def _strips(height: int, width: int) -> list[slice]:
    """Split an image into strips of rows that are computed at once, the first one the largest."""
    rows = max(1, STRIP_PIXELS // width)
    return [slice(top, min(top + rows, height)) for top in range(0, height, rows)]


def add_squares(planes: Floats, radius: int, *, out: Floats | None = None) -> Floats:
    """Compute sums over squares, one axis after the other; time grows with the logarithm of the radius.

    A sum is composed of sums of 1, 2, 4, ... values. That is faster than running sums, in which each value
    depends on the previous one, and loses no digits. Rows are padded with zeros and lie one after another, so
    that a neighbour along either axis is at a fixed distance.

    Shape: (n, H, W), kept.
    """
    sums = np.empty_like(planes) if out is None else out
    _, height, width = planes.shape
    line = width + 2 * radius  # of a padded row
    count = -(-height // max(BOX_PIXELS // line, 4 * radius))  # of strips
    rows = -(-height // count)  # of each
    memory = np.zeros((5, (rows + 2 * radius) * line), np.float32)
    for plane, result in zip(planes, sums, strict=True):
        for top in range(0, height, rows):
            _add_strip(plane, radius, strip=slice(top, min(top + rows, height)), memory=memory, result=result)
    return sums


def _add_strip(plane: Floats, radius: int, *, strip: slice, memory: Floats, result: Floats) -> None:
    """Compute the sums of a strip of rows.

    Args:
        plane: (H, W).
        radius: of the squares [px].
        strip: the rows.
        memory: five padded strips; columns that pad the first one are 0.
        result: (H, W); these rows are filled.
    """
    height, width = plane.shape
    line, rows = width + 2 * radius, strip.stop - strip.start
    padded = memory[0].reshape(-1, line)
    first, stop = max(0, strip.start - radius), min(height, strip.stop + radius)
    begin = first - (strip.start - radius)  # rows of zeros above
    padded[:begin] = 0
    padded[begin : begin + stop - first, radius : radius + width] = plane[first:stop]
    padded[begin + stop - first : rows + 2 * radius] = 0
    spare, along_rows, along_both = memory[1:3], memory[3], memory[4]
    _add_runs(memory[0], 2 * radius + 1, distance=1, spare=spare, out=along_rows)
    _add_runs(along_rows, 2 * radius + 1, distance=line, spare=spare, out=along_both)
    result[strip] = along_both[: rows * line].reshape(rows, line)[:, :width]


def _add_runs(values: Floats, count: int, *, distance: int, spare: Floats, out: Floats) -> None:
    """Compute sums of ``count`` values that lie ``distance`` apart, each from its first one.

    Args:
        values: (n,). The sums near its end are not valid.
        count: values of a sum, an odd number above 1.
        distance: from one value of a sum to the next.
        spare: (2, n), overwritten.
        out: (n,), is filled.
    """
    runs, total = values, values  # sums of `size` and of `taken` values each
    size, taken = 1, 1
    longer, shorter = spare
    while 2 * size <= count:
        end = len(values) - size * distance
        longer, shorter = shorter, longer
        np.add(runs[:end], runs[size * distance :], out=longer[:end])
        runs, size = longer, 2 * size
        if count & size:
            end = len(values) - taken * distance
            np.add(total[:end], runs[taken * distance :], out=out[:end])
            total, taken = out, taken + size


@cache
def best_box_sum() -> BoxSum:
    """Return OpenCV's box filter if it is installed, else `add_squares`."""
    try:
        cv2 = importlib.import_module("cv2")
    except ImportError:
        return add_squares
    return partial(_add_by_opencv, cv2)


def _add_by_opencv(cv2: Any, planes: Floats, radius: int, *, out: Floats | None = None) -> Floats:  # noqa: ANN401 - it ships no types
    sums = np.empty_like(planes) if out is None else out
    side = (2 * radius + 1, 2 * radius + 1)
    for plane, result in zip(planes, sums, strict=True):
        cv2.boxFilter(plane, -1, side, dst=result, normalize=False, borderType=cv2.BORDER_CONSTANT)
    return sums


def _invert(matrices: Floats) -> Floats:
    """Invert symmetric 3x3 matrices, in float64: colours are often nearly grey. Shape: (6, H, W), kept."""
    rr, rg, rb, gg, gb, bb = matrices.astype(np.float64)
    first = gg * bb - gb * gb
    second = rb * gb - rg * bb
    third = rg * gb - rb * gg
    share = 1 / (rr * first + rg * second + rb * third)
    inverse = np.empty_like(matrices)
    others = rr * bb - rb * rb, rb * rg - rr * gb, rr * gg - rg * rg
    for entry, cofactor in zip(inverse, (first, second, third, *others), strict=True):
        np.multiply(cofactor, share, out=entry, casting="same_kind")
    return inverse
