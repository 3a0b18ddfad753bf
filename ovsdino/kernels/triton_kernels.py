"""The fused kernels in Triton; `ovsdino.kernels.reference` defines their results.

Import this module only if Triton is installed. Arguments have the order of TensorRT's plugins: input
pointers, integers, output pointers. Shapes that a model fixes are constants, so that index arithmetic is
folded; batch and photo size are not. All arithmetic is FP32.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _filtered(
    x, weight, index, inside, FIRST, HEIGHT: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr
):
    """Compute the convolution at the outputs `index` of a group, numbered by channel, then by row."""
    OUT_WIDTH: tl.constexpr = (WIDTH - 1) // STRIDE + 1
    AREA: tl.constexpr = ((HEIGHT - 1) // STRIDE + 1) * OUT_WIDTH
    channel = FIRST + index // AREA
    top = index % AREA // OUT_WIDTH * STRIDE - 1
    left = index % OUT_WIDTH * STRIDE - 1
    total = tl.zeros(index.shape, tl.float32)
    for tap in tl.static_range(9):
        row = top + tap // 3
        column = left + tap % 3
        valid = inside & (row >= 0) & (row < HEIGHT) & (column >= 0) & (column < WIDTH)
        value = tl.load(x + (channel * HEIGHT + row) * WIDTH + column, mask=valid, other=0.0)
        total += value.to(tl.float32) * tl.load(weight + channel * 9 + tap, mask=inside, other=0.0).to(
            tl.float32
        )
    return total


@triton.jit
def depthwise_block(
    x,
    weight,
    gamma,
    beta,
    out,
    CHANNELS: tl.constexpr,
    HEIGHT: tl.constexpr,
    WIDTH: tl.constexpr,
    GROUPS: tl.constexpr,
    STRIDE: tl.constexpr,
    EPSILON: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program computes a group of an image: convolve for the statistics, then normalise and activate.

    A group that exceeds one block is convolved twice, which is cheaper than storing FP32, because the second
    pass reads from the cache. Mean and variance are merged block by block (Chan et al. 1979), because sums of
    squares cancel if the mean is large.
    """
    PER_GROUP: tl.constexpr = CHANNELS // GROUPS
    AREA: tl.constexpr = ((HEIGHT - 1) // STRIDE + 1) * ((WIDTH - 1) // STRIDE + 1)
    SIZE: tl.constexpr = PER_GROUP * AREA
    first = tl.program_id(0) * PER_GROUP
    image = tl.program_id(1).to(tl.int64)
    x += image * CHANNELS * HEIGHT * WIDTH
    out += image * CHANNELS * AREA + first * AREA
    mean = 0.0
    squares = 0.0  # of the deviations from the mean
    value = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, SIZE, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < SIZE
        value = _filtered(x, weight, index, inside, first, HEIGHT, WIDTH, STRIDE)
        count = tl.minimum(SIZE - start, BLOCK).to(tl.float32)
        block_mean = tl.sum(value) / count
        deviation = tl.where(inside, value - block_mean, 0.0)
        delta = block_mean - mean
        share = count / (start + count)
        mean += delta * share
        squares += tl.sum(deviation * deviation) + delta * delta * start * share
    scale = 1.0 / tl.sqrt(squares / SIZE + EPSILON)
    for start in range(0, SIZE, BLOCK):
        index = start + tl.arange(0, BLOCK)
        inside = index < SIZE
        if SIZE > BLOCK:  # else it is there
            value = _filtered(x, weight, index, inside, first, HEIGHT, WIDTH, STRIDE)
        channel = first + index // AREA
        slope = tl.load(gamma + channel, mask=inside, other=0.0).to(tl.float32)
        shift = tl.load(beta + channel, mask=inside, other=0.0).to(tl.float32)
        value = (value - mean) * scale * slope + shift
        value = 0.5 * value * (1.0 + tl.erf(value * 0.7071067811865476))
        tl.store(out + index, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def preservation_gate(
    x,
    modulation,
    residual,
    alpha,
    out,
    CHANNELS: tl.constexpr,
    AREA: tl.constexpr,
    PER_CHANNEL: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Each program computes a block of values of an image."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = index < CHANNELS * AREA
    place = tl.program_id(1).to(tl.int64) * (CHANNELS * AREA) + index
    value = tl.load(x + place, mask=inside).to(tl.float32)
    gate = tl.load(modulation + place, mask=inside).to(tl.float32)
    gate += tl.load(residual + place, mask=inside).to(tl.float32)
    strength = tl.load(alpha + index // AREA * PER_CHANNEL, mask=inside).to(tl.float32)
    value += strength * value * (1.0 / (1.0 + tl.exp(-gate)))
    tl.store(out + place, value.to(out.dtype.element_ty), mask=inside)


@triton.jit
def upsample_argmax(logits, classes, height, width, out_height, out_width, labels, BLOCK: tl.constexpr):
    """Each program computes a part of a row: it loops over all classes and keeps the best."""
    row = tl.program_id(1)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < out_width
    y = tl.maximum((row + 0.5) * (height * 1.0 / out_height) - 0.5, 0.0)  # a size of 1 comes as a constant
    x = tl.maximum((column + 0.5) * (width * 1.0 / out_width) - 0.5, 0.0)
    top = tl.minimum(y.to(tl.int32), height - 1)
    left = tl.minimum(x.to(tl.int32), width - 1)
    bottom = tl.minimum(top + 1, height - 1)
    right = tl.minimum(left + 1, width - 1)
    down = y - top
    across = x - left
    best = tl.full((BLOCK,), float("-inf"), tl.float32)
    label = tl.zeros((BLOCK,), tl.int32)
    for index in range(classes):
        upper_left = tl.load(logits + top * width + left, mask=inside, other=0.0).to(tl.float32)
        upper_right = tl.load(logits + top * width + right, mask=inside, other=0.0).to(tl.float32)
        lower_left = tl.load(logits + bottom * width + left, mask=inside, other=0.0).to(tl.float32)
        lower_right = tl.load(logits + bottom * width + right, mask=inside, other=0.0).to(tl.float32)
        upper = (1.0 - across) * upper_left + across * upper_right
        lower = (1.0 - across) * lower_left + across * lower_right
        score = (1.0 - down) * upper + down * lower
        better = score > best  # False for a NaN
        best = tl.where(better, score, best)
        label = tl.where(better, index, label)
        logits += height * width  # the pointer walks, so that N * h * w may exceed 32 bits
    tl.store(labels + row.to(tl.int64) * out_width + column, label.to(tl.uint16), mask=inside)
