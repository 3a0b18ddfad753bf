"""Refine labels so that their outlines follow the edges of the photo.

At half the size of the resized photo, the scores of all classes that win anywhere are filtered by
`guided_filter` with the photo as guide, and small regions join a neighbour. The scores are then resized to
the photo, where each pixel takes the best class. Time grows with the number of classes in the photo and
hardly depends on its size.
"""

from dataclasses import dataclass

import numpy as np

from ovsdino_runtime.geometry.best_class import best_class
from ovsdino_runtime.geometry.guided_filter import guided_filter
from ovsdino_runtime.geometry.merge import MergeGeometry, merge_argmax, merge_scores
from ovsdino_runtime.geometry.preprocess import bilinear_taps
from ovsdino_runtime.geometry.regions import merge_small_regions
from ovsdino_runtime.geometry.types import Floats, Indices, Labels, Mask, Photo

MARGIN = (
    1e-4  # cosine: how clearly a pixel of a small region is put above or below the background's threshold
)
STRIP_PIXELS = 1 << 16  # of the photo that are upsampled at once: they stay in the processor's cache
NO_BACKGROUND = -np.inf


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """How labels are refined. Stored in the bundles of models that refine by default.

    Args:
        radius: radius of the filter windows, in cells of the feature grid. Choose less to keep thin objects.
        epsilon: variance of a colour, in 0..1, below which the photo counts as smooth.
        min_area: share of the photo below which a region takes the label of a neighbour; 0 keeps all regions.
    """

    radius: float = 0.75
    epsilon: float = 1e-4
    min_area: float = 0.001

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: the radius or epsilon is not positive, or the area is not in 0..0.5.
        """
        if not 0 < self.radius <= 8:
            raise ValueError(f"radius must be above 0 and at most 8 cells, got {self.radius}")
        if not 0 < self.epsilon <= 1:
            raise ValueError(f"epsilon must be above 0 and at most 1, got {self.epsilon}")
        if not 0 <= self.min_area <= 0.5:
            raise ValueError(f"min_area must be a share of the photo in 0..0.5, got {self.min_area}")


@dataclass(frozen=True, eq=False)
class RefineGeometry:
    """The coarse size at which scores are filtered, and the size of the result.

    Args:
        merge: merge geometry of the windows, for the coarse size.
        guide: the photo at the coarse size, (h', w', 3).
        cell: side of a cell of the feature grid, at the coarse size [px].
        photo: height and width of the result [px].
    """

    merge: MergeGeometry
    guide: Photo
    cell: float
    photo: tuple[int, int]


def coarse_size(resized: tuple[int, int]) -> tuple[int, int]:
    """Return the size at which scores are filtered: half that of the resized photo [px]."""
    return max(1, resized[0] // 2), max(1, resized[1] // 2)


def refine_argmax(
    features: Floats,
    text: Floats,
    geometry: RefineGeometry,
    *,
    threshold: float,
    refinement: Refinement,
) -> tuple[Labels, Floats]:
    """Find the best class of each pixel, and its cosine, after filtering.

    Args:
        features: features at the nodes of each window; windows in row-major order.
        text: unit vector of each class.
        geometry: refinement geometry of the photo.
        threshold: cosine below which a pixel is background; `NO_BACKGROUND` without one.
        refinement: how labels are refined.

    Shape: (B, D, h, w), (N, D) -> (H, W) in 0..N-1, (H, W).
    """
    labels, cosine = merge_argmax(features, text, geometry.merge)  # (h', w') each
    min_pixels = refinement.min_area * labels.size  # [px]
    winners = _winners(labels, cosine >= threshold, min_pixels)  # (K,)
    scores = merge_scores(features, text[winners], geometry.merge)  # (K, h', w')
    radius = max(1, round(refinement.radius * geometry.cell))
    smooth = guided_filter(geometry.guide, radius=radius, epsilon=refinement.epsilon)
    filtered = smooth(scores)  # (K, h', w')
    if min_pixels > 1:
        _absorb_small_regions(filtered, threshold, int(np.ceil(min_pixels)))
    best, cosine = upsample_argmax(filtered, geometry.photo)  # (H, W) each
    return winners.astype(np.uint16)[best], cosine


def upsample_argmax(scores: Floats, size: tuple[int, int]) -> tuple[Labels, Floats]:
    """Resize scores bilinearly, and find the best class of each pixel and its score.

    A pixel takes the class of one of its four coarse neighbours: their common class if they agree, else the
    best of theirs. This avoids slivers of a third class between two regions.

    Shape: (K, h, w) -> (H, W) in 0..K-1, (H, W).
    """
    best, top = best_class(scores)  # (h, w) each
    coarse = _Coarse(scores, best, top, _mixed(best))
    labels = np.empty(size, np.uint16)
    values = np.empty(size, np.float32)
    step = max(1, STRIP_PIXELS // size[1])
    width = max(1, STRIP_PIXELS // step)
    for row in range(0, size[0], step):
        rows = slice(row, min(row + step, size[0]))
        for column in range(0, size[1], width):
            columns = slice(column, min(column + width, size[1]))
            part = rows, columns
            _upsample_part(coarse, size=size, part=part, labels=labels, values=values)
    return labels, values


def _winners(labels: Labels, sure: Mask, min_pixels: float) -> Indices:
    """Return the indices of classes that can keep a region, in ascending order; at min_pixels one."""
    counts = np.bincount(labels[sure]) if sure.any() else np.bincount(labels.ravel())
    winners = np.flatnonzero(counts >= max(1, min_pixels))
    return winners if len(winners) else np.array([counts.argmax()])


def _absorb_small_regions(scores: Floats, threshold: float, min_area: int) -> None:
    """Change scores so that no region is smaller than ``min_area`` [px]. Shape: (K, h, w), in place."""
    best, top = best_class(scores)
    labels = np.where(top < threshold, 0, best + 1).astype(np.uint16)
    merged = merge_small_regions(labels, min_area)
    rows, columns = np.nonzero(merged != labels)
    new, old = merged[rows, columns].astype(np.intp), labels[rows, columns].astype(np.intp)
    gone = new == 0  # into the background
    at = rows[gone], columns[gone]
    scores[:, at[0], at[1]] = np.minimum(scores[:, at[0], at[1]], threshold - MARGIN)
    rows, columns, new, old = rows[~gone], columns[~gone], new[~gone] - 1, old[~gone] - 1
    raised = np.maximum(top[rows, columns], threshold + MARGIN)
    named = old >= 0  # a class, whose score its successor takes
    scores[old[named], rows[named], columns[named]] = scores[new[named], rows[named], columns[named]]
    scores[new, rows, columns] = raised


@dataclass(frozen=True, eq=False)
class _Coarse:
    """Scores at the coarse size, and what follows from them."""

    scores: Floats  # (K, h, w)
    best: Labels  # (h, w): class with the highest score
    top: Floats  # (h, w): that score
    mixed: Mask  # (h, w): of pixels with a neighbour below or right of another class


def _upsample_part(
    coarse: _Coarse,
    *,
    size: tuple[int, int],
    part: tuple[slice, slice],
    labels: Labels,
    values: Floats,
) -> None:
    """Compute a part of the result."""
    scores, best, top = coarse.scores, coarse.best, coarse.top
    (up, down, below), (left, right, beside) = (
        bilinear_taps(source, target, start=pixels.start, stop=pixels.stop)
        for source, target, pixels in zip(best.shape, size, part, strict=True)
    )
    strip = slice(up[0], down[-1] + 1)  # of the scores; columns first, for rows are taken faster
    upper, lower = up - up[0], down - up[0]
    labels[part] = best[strip, left].take(upper, axis=0)
    columns = top[strip, left] * (1 - beside) + top[strip, right] * beside
    merged = columns.take(upper, axis=0)
    merged *= 1 - below[:, None]
    lowest = columns.take(lower, axis=0)
    lowest *= below[:, None]
    np.add(merged, lowest, out=values[part])
    mixed = coarse.mixed[strip, left].take(upper, axis=0)
    y, x = np.divmod(np.flatnonzero(mixed), mixed.shape[1])
    if not len(y):
        return
    rows, columns = np.stack([up[y], down[y]]), np.stack([left[x], right[x]])  # (2, n) each
    down_share, right_share = below[y], beside[x]
    candidates = best[rows[:, None], columns[None]].reshape(4, -1)  # (4, n)
    winner, value = candidates[0], np.full(len(y), -np.inf, np.float32)
    for candidate in candidates:
        corners = scores[candidate, rows[:, None], columns[None]]  # (2, 2, n)
        sides = corners[:, 0] * (1 - right_share) + corners[:, 1] * right_share  # (2, n)
        score = sides[0] * (1 - down_share) + sides[1] * down_share  # (n,)
        better = score > value
        winner, value = np.where(better, candidate, winner), np.where(better, score, value)
    labels[part][y, x] = winner
    values[part][y, x] = value


def _mixed(best: Labels) -> Mask:
    """Mark the pixels whose label differs from that of the pixel below, right or below right."""
    mixed = np.zeros(best.shape, np.bool_)
    mixed[:-1] |= best[:-1] != best[1:]
    mixed[:, :-1] |= best[:, :-1] != best[:, 1:]
    mixed[:-1, :-1] |= best[:-1, :-1] != best[1:, 1:]
    return mixed
