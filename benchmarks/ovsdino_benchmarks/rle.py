"""COCO's run-length encoding: the masks inside ``trainval_merged.json``."""

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
