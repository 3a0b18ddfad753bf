"""COCO's run-length encoding of a mask, as a compressed string."""

import numpy as np
import numpy.typing as npt


def run_lengths(counts: str) -> npt.NDArray[np.int64]:
    """Decode the run lengths of a compressed mask: alternately outside and inside, in column order.

    Each is a number in base 32, lowest digit first; from the fourth on, the difference from the run two
    before.

    Source: cocoapi, ``maskApi.c``, ``rleFrString``.

    Shape: (runs,).

    Raises:
        ValueError: the last number has no end.
    """
    digits = np.frombuffer(counts.encode("ascii"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((digits & 32) == 0)  # the last digit of each number
    if not len(ends) or ends[-1] + 1 != len(digits):
        raise ValueError(f"the mask's runs end in the middle of a number: {counts[-20:]!r}")
    starts = np.concatenate(([0], ends[:-1] + 1))
    place = 5 * (np.arange(len(digits)) - np.repeat(starts, ends - starts + 1))
    values = np.add.reduceat((digits & 31) << place, starts)
    values -= np.where(digits[ends] & 16, 1 << (5 * (ends - starts + 1)), 0)
    values[1::2] = values[1::2].cumsum()
    values[2::2] = values[2::2].cumsum()
    return values


def decode_rle(counts: str, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode a compressed mask. Shape: (height, width).

    Raises:
        ValueError: the runs do not fill the mask.
    """
    runs = run_lengths(counts)
    if runs.sum() != height * width or runs.min(initial=0) < 0:
        raise ValueError(f"the mask's runs fill {runs.sum()} px, expected {height}x{width}")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def encode_rle(mask: npt.NDArray[np.bool_]) -> str:
    """Encode a mask so that :func:`decode_rle` and pycocotools read it.

    Source: cocoapi, ``maskApi.c``, ``rleToString``.

    Shape: mask (height, width).
    """
    pixels = np.concatenate(([False], mask.T.ravel()))  # the first run is outside, and may be empty
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    runs = np.diff(np.concatenate(([0], edges, [mask.size])))
    values = runs.copy()
    values[3:] -= runs[1:-2]
    return _write_numbers(values)


def _write_numbers(values: npt.NDArray[np.int64]) -> str:
    """Encode signed numbers in base 32, lowest digit first, with the fewest digits that keep the sign."""
    counts = np.ones(len(values), np.int64)  # digits of each number
    for bits in range(4, 64, 5):  # that a number of so many digits has beside its sign
        longer = (values < -(1 << bits)) | (values >= 1 << bits)
        if not longer.any():
            break
        counts += longer
    ends = counts.cumsum()
    place = np.arange(ends[-1]) - np.repeat(ends - counts, counts)  # of each digit in its number
    digits = (np.repeat(values, counts) >> (5 * place)) & 31
    more = place + 1 < np.repeat(counts, counts)
    letters = (digits + 48 + 32 * more).astype(np.uint8)
    return str(letters.tobytes(), "ascii")
