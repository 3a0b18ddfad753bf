"""COCO's run-length encoding of a mask, as a compressed string."""

import numpy as np
import numpy.typing as npt


def decode_rle(counts: str, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Decode a compressed mask.

    Runs alternate between outside and inside, down the columns. Each is a number in base 32, the lowest digit
    first; from the third on it is the difference from the run two before.

    Source: cocoapi, ``maskApi.c``, ``rleFrString``.

    Shape: (height, width).

    Raises:
        ValueError: the runs do not fill the mask.
    """
    runs: list[int] = []
    value = shift = 0
    for character in counts.encode("ascii"):
        digit = character - 48
        value |= (digit & 31) << shift
        shift += 5
        if digit & 32:  # more digits follow
            continue
        if digit & 16:  # negative
            value -= 1 << shift
        runs.append(value + (runs[-2] if len(runs) > 2 else 0))
        value = shift = 0
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise ValueError(f"the mask's runs fill {sum(runs)} px, expected {height}x{width}")
    inside = np.arange(len(runs)) % 2 == 1
    return np.repeat(inside, runs).reshape(width, height).T


def encode_rle(mask: npt.NDArray[np.bool_]) -> str:
    """Encode a mask so that :func:`decode_rle` and pycocotools read it.

    Source: cocoapi, ``maskApi.c``, ``rleToString``.

    Shape: mask (height, width).
    """
    pixels = np.concatenate(([False], mask.T.ravel()))  # the first run is outside, and may be empty
    edges = np.flatnonzero(pixels[1:] != pixels[:-1])
    runs = np.diff(np.concatenate(([0], edges, [mask.size]))).tolist()
    digits = bytearray()
    for place, run in enumerate(runs):
        value = run - runs[place - 2] if place > 2 else run
        more = True
        while more:
            digit, value = value & 31, value >> 5
            more = value != (-1 if digit & 16 else 0)
            digits.append(digit + 48 + 32 * more)
    return digits.decode("ascii")
