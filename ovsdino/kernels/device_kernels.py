"""Triton kernels for the stages around the vision engine; `ovsdino.kernels.reference` defines their results.

Import this module only if Triton is installed. The runtime launches the kernels without torch. All sizes are
arguments, so that the kernels serve all models and photo sizes. All arithmetic is FP32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _weighted(line, weights, inside, taps, antialias):
    """Return the weighted sum of adjacent values of a row; with antialias, rounded as Pillow does."""
    total = tl.zeros(inside.shape, tl.float32)
    for tap in range(taps):
        weight = tl.load(weights + tap, mask=inside, other=0.0)
        total += weight * tl.load(line + tap * 3, mask=inside, other=0).to(tl.float32)
    return tl.where(antialias > 0, tl.floor(total + 0.5), total)


@triton.jit
def photo_windows(
    photo,
    row_lows,
    row_shares,
    row_starts,
    row_weights,
    column_lows,
    column_shares,
    column_starts,
    column_weights,
    colours,
    width,
    across,
    first,
    near,
    row_taps,
    column_taps,
    antialias,
    size,
    pixels,
    BLOCK: tl.constexpr,
):
    """Each program computes a tile of a window; a pixel blends up to 2 x 2 pixels of the resized photo."""
    window = first + tl.program_id(1)
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < size * size
    row = window // across * size + index // size
    column = window % across * size + index % size
    down = tl.load(row_shares + row, mask=inside, other=0.0)
    right = tl.load(column_shares + column, mask=inside, other=0.0)
    row = tl.load(row_lows + row, mask=inside, other=0)
    column = tl.load(column_lows + column, mask=inside, other=0)
    red = tl.zeros((BLOCK,), tl.float32)
    green = tl.zeros((BLOCK,), tl.float32)
    blue = tl.zeros((BLOCK,), tl.float32)
    for a in range(near):
        top = tl.load(row_starts + row + a, mask=inside, other=0).to(tl.int64)
        for b in range(near):
            left = tl.load(column_starts + column + b, mask=inside, other=0)
            weights = column_weights + (column + b) * column_taps
            r = tl.zeros((BLOCK,), tl.float32)
            g = tl.zeros((BLOCK,), tl.float32)
            u = tl.zeros((BLOCK,), tl.float32)
            for i in range(row_taps):
                weight = tl.load(row_weights + (row + a) * row_taps + i, mask=inside, other=0.0)
                line = photo + ((top + i) * width + left) * 3
                r += weight * _weighted(line, weights, inside, column_taps, antialias)
                g += weight * _weighted(line + 1, weights, inside, column_taps, antialias)
                u += weight * _weighted(line + 2, weights, inside, column_taps, antialias)
            share = tl.where(a > 0, down, 1.0 - down) * tl.where(b > 0, right, 1.0 - right)
            red += share * tl.floor(r + 0.5)  # the resized photo is in whole numbers
            green += share * tl.floor(g + 0.5)
            blue += share * tl.floor(u + 0.5)
    pixels += tl.program_id(1).to(tl.int64) * 3 * size * size + index
    tl.store(pixels, red * tl.load(colours) + tl.load(colours + 3), mask=inside)
    pixels += size * size
    tl.store(pixels, green * tl.load(colours + 1) + tl.load(colours + 4), mask=inside)
    pixels += size * size
    tl.store(pixels, blue * tl.load(colours + 2) + tl.load(colours + 5), mask=inside)


@triton.jit
def cosine_scores(
    features,
    text,
    first,
    classes,
    windows,
    channels,
    area,
    scores,
    CLASSES: tl.constexpr,
    NODES: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """Each program computes a block of classes x nodes of one window: a matrix product over channels."""
    window = tl.program_id(2)
    node = tl.program_id(0) * NODES + tl.arange(0, NODES)
    number = tl.program_id(1) * CLASSES + tl.arange(0, CLASSES)
    features += window.to(tl.int64) * channels * area
    total = tl.zeros((CLASSES, NODES), tl.float32)
    for start in range(0, channels, DEPTH):
        channel = start + tl.arange(0, DEPTH)
        valid = (number < classes)[:, None] & (channel < channels)[None, :]
        words = tl.load(text + (first + number)[:, None] * channels + channel[None, :], mask=valid, other=0.0)
        valid = (channel < channels)[:, None] & (node < area)[None, :]
        seen = tl.load(features + channel[:, None] * area + node[None, :], mask=valid, other=0.0)
        total += tl.dot(words, seen, input_precision="ieee")
    inside = (number < classes)[:, None] & (node < area)[None, :]
    tl.store(scores + (number[:, None] * windows + window) * area + node[None, :], total, mask=inside)


@triton.jit
def _tile_nodes(scores, row_nodes, column_nodes, i, j, NODES: tl.constexpr):
    """Load the scores of one class at NODES x NODES nodes of a tile."""
    node = tl.arange(0, NODES)
    down = tl.load(row_nodes + i + node)
    across = tl.load(column_nodes + j + node)
    return tl.load(scores + down[:, None] + across[None, :])


@triton.jit
def _ceiling(scores, row_nodes, column_nodes, row_count, column_count, NODES: tl.constexpr):
    """Return the highest score of one class at a tile's nodes: an upper bound for the tile's pixels."""
    best = float("-inf")
    for i in range(0, row_count, NODES):
        for j in range(0, column_count, NODES):
            best = tl.maximum(best, tl.max(_tile_nodes(scores, row_nodes, column_nodes, i, j, NODES)))
    return best


@triton.jit
def _spread(
    scores,
    row_nodes,
    column_nodes,
    column_weights,
    i,
    column_count,
    COLUMNS: tl.constexpr,
    NODES: tl.constexpr,
):
    """Interpolate the scores of one class at NODES rows of nodes along a tile's columns."""
    spread = tl.zeros((NODES, COLUMNS), tl.float32)
    for j in range(0, column_count, NODES):
        nodes = _tile_nodes(scores, row_nodes, column_nodes, i, j, NODES)
        spread += tl.dot(nodes, tl.load(column_weights + j), input_precision="ieee")
    return spread


@triton.jit
def merge_argmax(
    scores,
    row_nodes,
    row_weights,
    column_nodes,
    column_weights,
    head,
    first,
    classes,
    last,
    offset,
    plane,
    row_count,
    column_count,
    height,
    width,
    best,
    labels,
    confidence,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    NODES: tl.constexpr,
):
    """Each program computes a tile of the photo: it loops over all classes and keeps the best of each pixel.

    A class whose highest node in the tile is below the tile's lowest pixel so far cannot win and is skipped.
    """
    strip = tl.program_id(0)
    band = tl.program_id(1)
    row = band * ROWS + tl.arange(0, ROWS)
    column = strip * COLUMNS + tl.arange(0, COLUMNS)
    inside = (row < height)[:, None] & (column < width)[None, :]
    place = row[:, None].to(tl.int64) * width + column[None, :]
    again = inside & (tl.zeros((1, 1), tl.int32) + first > 0)
    top = tl.load(best + place, mask=again, other=float("-inf"))
    label = tl.load(labels + place, mask=again, other=0).to(tl.int32)
    row_nodes += band * row_count
    column_nodes += strip * column_count
    node = tl.arange(0, NODES)
    row_weights += row[:, None] * row_count + node[None, :]
    column_weights += column[None, :] * column_count + node[:, None]
    floor = tl.min(tl.where(inside, top, float("inf")))
    for number in range(classes):
        ceiling = _ceiling(scores, row_nodes, column_nodes, row_count, column_count, NODES)
        if ceiling + 1e-5 >= floor:  # more than rounding can add to a score
            fine = tl.zeros((ROWS, COLUMNS), tl.float32)
            for i in range(0, row_count, NODES):
                spread = _spread(
                    scores, row_nodes, column_nodes, column_weights, i, column_count, COLUMNS, NODES
                )
                fine += tl.dot(tl.load(row_weights + i), spread, input_precision="ieee")
            better = fine > top  # False for a NaN
            top = tl.where(better, fine, top)
            label = tl.where(better, first + number, label)
            floor = tl.min(tl.where(inside, top, float("inf")))
        scores += plane
    sure = 1.0 / (1.0 + tl.exp(-(tl.load(head) * top + tl.load(head + 1))))  # in (0, 1)
    unsure = sure < tl.load(head + 2)
    label = tl.where(last > 0, tl.where(unsure, 0, label + offset), label)
    tl.store(best + place, top, mask=inside)
    tl.store(labels + place, label.to(tl.uint16), mask=inside)
    tl.store(confidence + place, tl.where(unsure, 1.0 - sure, sure).to(tl.float16), mask=inside)
