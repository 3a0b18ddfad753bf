"""Encode masks in the run lengths of Label Studio's brush."""

import numpy as np

from ovsdino_runtime.geometry.types import Array, Mask

CHANNELS = 4  # the brush's picture is RGBA; all channels have the mask's value
WORD_BITS = 8
RUN_BITS = (3, 6, 12, 16)  # widths of the length field that a block can choose
MAX_RUN = 1 << RUN_BITS[-1]
BLOCK_BITS = 1 + 2 + RUN_BITS[-1] + WORD_BITS


def encode_brush_rle(mask: Mask) -> list[int]:
    """Encode a mask as the bytes of ``value.rle`` in a region of type ``brushlabels``.

    The stream is the number of values (32 bits), their width less 1 (5 bits), four widths less 1 (4 bits
    each), then blocks: 1 (a run), the index of the width (2 bits), the length less 1, and the value.

    Source: the package rle-pack of thi.ng/umbrella, which Label Studio uses.

    Shape: (H, W).
    """
    flat = np.asarray(mask, np.bool_).ravel()
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = CHANNELS * np.diff(np.append(starts, flat.size))
    values = np.where(flat[starts], 255, 0)
    pieces = -(-lengths // MAX_RUN)
    values = np.repeat(values, pieces)
    runs = np.full(values.shape, MAX_RUN)
    ends = np.cumsum(pieces) - 1  # the last piece of each run has what is left
    runs[ends] = lengths - (pieces - 1) * MAX_RUN
    return [*np.packbits(np.concatenate([_header(CHANNELS * flat.size), _blocks(runs, values)])).tolist()]


def _header(count: int) -> Array:
    text = f"{count:032b}{WORD_BITS - 1:05b}" + "".join(f"{bits - 1:04b}" for bits in RUN_BITS)
    return np.frombuffer(text.encode(), np.uint8) - ord("0")


def _blocks(runs: Array, values: Array) -> Array:
    """Return the bits of the blocks. Shape: runs (n,), values (n,) -> (bits,)."""
    which = np.searchsorted([1 << bits for bits in RUN_BITS], runs)  # the narrowest field that holds it
    widths = np.array(RUN_BITS)[which]
    numbers = (((4 | which) << widths | (runs - 1)) << WORD_BITS) | values
    totals = 1 + 2 + widths + WORD_BITS
    shifts = np.arange(BLOCK_BITS - 1, -1, -1)
    bits = (numbers[:, None] >> shifts & 1).astype(np.uint8)  # (n, BLOCK_BITS), right-aligned
    kept: Array = bits[shifts < totals[:, None]]
    return kept
