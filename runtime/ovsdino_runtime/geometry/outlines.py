"""Outlines of masks as polygons, along the edges of the pixels."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import numpy.typing as npt

Ring = list[tuple[int, int]]  # corners (x, y) [px], the first one again at the end
Polygon = list[Ring]  # the outer ring, then its holes


def outline(mask: npt.NDArray[np.bool_]) -> list[Polygon]:
    """Find the polygons of a mask, each an outer ring and its holes. Pixels are connected along edges only.

    With y pointing down, outer rings run counter-clockwise and holes clockwise as seen. Rings are simple.

    Shape: (H, W).
    """
    rings = list(_trace_rings(mask))
    owner = np.full((mask.shape[0] + 1, mask.shape[1]), -1)  # the ring along the top of each pixel
    for number, ring in enumerate(rings):
        for (x, y), (to, below) in pairwise(ring):
            if y == below:
                owner[y, min(x, to) : max(x, to)] = number
    polygons = {number: [ring] for number, ring in enumerate(rings) if _is_outer(ring)}
    outer = {number: number for number in polygons}
    tops = {n: min((y, x) for x, y in ring) for n, ring in enumerate(rings) if n not in polygons}
    for number in sorted(tops, key=tops.__getitem__):  # what lies above a hole is known when its turn comes
        y, x = tops[number]
        above = owner[:y, x]
        outer[number] = outer[int(above[above >= 0][-1])]
        polygons[outer[number]].append(rings[number])
    return list(polygons.values())


def _trace_rings(mask: npt.NDArray[np.bool_]) -> Iterator[Ring]:
    """Follow all edges of a mask with its pixels on the left; at a corner with two exits turn left."""
    width = mask.shape[1] + 1  # corners in a row
    steps = (1, -width, -1, width)  # right, up, left, down
    exits = _edges(mask)
    flat = bytearray(exits.tobytes())
    for start in np.flatnonzero(exits).tolist():
        while flat[start]:
            yield from _walk(flat, start, steps=steps, width=width)


def _edges(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.uint8]:
    """Return the directions in which edges leave each corner, as bits. Shape: (H, W) -> (H + 1, W + 1)."""
    exits = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.uint8)
    inside = np.pad(mask, 1)
    above, below = inside[:-1, 1:-1], inside[1:, 1:-1]  # of the edges along the rows
    exits[:, :-1] |= np.where(above & ~below, 1, 0).astype(np.uint8)
    exits[:, 1:] |= np.where(below & ~above, 4, 0).astype(np.uint8)
    left, right = inside[1:-1, :-1], inside[1:-1, 1:]  # of the edges along the columns
    exits[1:] |= np.where(left & ~right, 2, 0).astype(np.uint8)
    exits[:-1] |= np.where(right & ~left, 8, 0).astype(np.uint8)
    return exits


def _walk(exits: bytearray, start: int, *, steps: tuple[int, ...], width: int) -> Iterator[Ring]:
    """Follow edges from a corner back to it, and consume them; yield a ring where the path meets itself."""
    place, way = start, (exits[start] & -exits[start]).bit_length() - 1
    path, index = [start], {start: 0}
    while True:
        exits[place] &= ~(1 << way)
        place += steps[way]
        if place != start:
            ways = exits[place]
            turn = next(t for t in (way + 1 & 3, way, way + 3 & 3) if ways >> t & 1)
            if turn == way:
                continue
            way = turn
        if place in index:
            first = index[place]
            yield [(corner % width, corner // width) for corner in (*path[first:], place)]
            for corner in path[first + 1 :]:
                del index[corner]
            del path[first + 1 :]
            if place == start:
                return
        else:
            index[place] = len(path)
            path.append(place)


def _is_outer(ring: Ring) -> bool:
    twice = sum(x * below - to * y for (x, y), (to, below) in pairwise(ring))
    return twice < 0  # y points down


def join_holes(polygon: Polygon) -> Ring:
    """Turn a polygon with holes into one ring, which enters and leaves each hole along a cut of zero width.

    Formats whose polygons cannot have holes, such as YOLO's and labelme's, fill this ring as the polygon.
    """
    ring, *holes = (part[:-1] for part in polygon)
    for hole in holes:
        outer, inner = np.array(ring), np.array(hole)
        gaps = ((outer[:, None] - inner) ** 2).sum(axis=2)  # (n, m)
        at, to = (int(index) for index in np.unravel_index(gaps.argmin(), gaps.shape))
        ring = [*ring[: at + 1], *hole[to:], *hole[: to + 1], *ring[at:]]
    return [*ring, ring[0]]
