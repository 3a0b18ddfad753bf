"""Connected regions of a label map, and the merging of small ones into their neighbours: numpy only."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Indices, Labels

MAX_PASSES = 16  # a small region beside a smaller one may need several


@dataclass(frozen=True, eq=False)
class Regions:
    """The 4-connected regions of a label map."""

    numbers: Indices  # (H, W): number of each pixel's region
    labels: Labels  # (regions,)
    areas: Indices  # (regions,) [px]


def find_regions(labels: Labels) -> Regions:
    """Number the regions of a label map.

    Rows are split into runs of one label; runs of the same label that touch in adjacent rows belong to one
    region. Each run takes the smallest number of the runs that it touches, until nothing changes. Pointers
    are followed to their end in each round, which keeps the number of rounds small.

    Shape: (H, W), at least 1x1.
    """
    height, width = labels.shape
    begins = np.ones(labels.shape, np.bool_)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=begins[:, 1:])
    run_of = np.cumsum(begins.ravel()) - 1  # (H * W,)
    runs = int(run_of[-1]) + 1
    flat = labels.ravel()
    touches = np.flatnonzero(flat[width:] == flat[:-width])
    upper, lower = run_of[touches], run_of[touches + width]
    new = np.ones(len(touches), np.bool_)  # one pair a pair of runs, not one a pixel
    new[1:] = (np.diff(upper) != 0) | (np.diff(lower) != 0)
    parent = _join(runs, upper[new], lower[new])
    roots, number_of_run = np.unique(parent, return_inverse=True)
    starts = np.flatnonzero(begins.ravel())
    lengths = np.diff(np.append(starts, height * width))
    areas = np.bincount(number_of_run, lengths, minlength=len(roots)).astype(np.intp)
    return Regions(number_of_run[run_of].reshape(labels.shape), flat[starts[roots]], areas)


def merge_small_regions(labels: Labels, min_area: int) -> Labels:
    """Give each region below ``min_area`` the label of the larger neighbour with the longest common border.

    Args:
        labels: the label map; it is not changed.
        min_area: regions of at least this size keep their label [px].

    Returns:
        A label map without regions below ``min_area``; unchanged if it has no larger region.

    Shape: (H, W), kept.
    """
    for _ in range(MAX_PASSES):
        regions = find_regions(labels)
        small = regions.areas < min_area
        if not small.any() or len(regions.areas) == 1:
            return labels
        chosen = _choose_neighbours(regions, small)
        labels = regions.labels[chosen][regions.numbers]
    return labels


def _join(count: int, first: Indices, second: Indices) -> Indices:
    """Return the smallest index of each of ``count`` nodes' connected component. Shape: (pairs,) each."""
    parent = np.arange(count)
    while True:
        a, b = parent[first], parent[second]
        differ = a != b
        if not differ.any():
            return parent
        first, second, a, b = first[differ], second[differ], a[differ], b[differ]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        parent = _follow(parent)


def _follow(parent: Indices) -> Indices:
    """Replace each pointer by the end of its chain. Shape: (n,)."""
    while not np.array_equal(parent, shorter := parent[parent]):
        parent = shorter
    return parent


def _choose_neighbours(regions: Regions, small: npt.NDArray[np.bool_]) -> Indices:
    """Return the region whose label each region takes: itself or a larger neighbour. Shape: (regions,)."""
    count = len(regions.areas)
    numbers = regions.numbers
    pairs = []
    for first, second in ((numbers[1:], numbers[:-1]), (numbers[:, 1:], numbers[:, :-1])):
        edge = first != second
        pairs += [first[edge] * count + second[edge], second[edge] * count + first[edge]]
    keys, borders = np.unique(np.concatenate(pairs), return_counts=True)
    region, neighbour = np.divmod(keys, count)
    # Of two equal areas the lower number is the larger, so that two regions never swap their labels.
    rank = np.empty(count, np.intp)
    rank[np.lexsort((-np.arange(count), regions.areas))] = np.arange(count)
    fit = small[region] & (rank[neighbour] > rank[region])
    region, neighbour, borders = region[fit], neighbour[fit], borders[fit]
    order = np.lexsort((rank[neighbour], borders))  # the longest border is written last
    chosen = np.arange(count)
    chosen[region[order]] = neighbour[order]
    return _follow(chosen)
