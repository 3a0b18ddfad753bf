"""Convert pixel values of more than 8 bits to 8 bits."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import PhotoError

USUAL_DEPTHS = (8, 10, 12, 14)  # of cameras that store their values in 16 bits


def to_8_bits(
    values: npt.NDArray[Any], *, declared: int | None, bits: int | None
) -> tuple[npt.NDArray[np.uint8], int, tuple[str, ...]]:
    """Keep the upper 8 of the bits that the values use.

    Without ``declared`` and ``bits`` the depth is guessed from the largest value: below 16,384 the values
    are read as 8, 10, 12 or 14 bits, and a note reports the guess.

    Args:
        values: whole numbers, not negative.
        declared: bit depth that the file declares; None if it declares none.
        bits: bit depth given by the caller; overrides ``declared``.

    Shape: any -> the same.

    Returns:
        The 8-bit values, the bit depth, and notes for the user.

    Raises:
        PhotoError: values are fractions, negative, or need more than ``bits``.
    """
    if values.dtype.kind not in "iu":
        raise _unnatural(values)
    low, high = int(values.min()), int(values.max())
    used = bits or declared
    notes: tuple[str, ...] = ()
    if low < 0 or (used is None and high > 65535):
        raise _unnatural(values)
    if used is None:
        used, notes = guess_bits(high)
    if high >= 1 << used:
        raise PhotoError(f"the largest value is {high}, which needs more than {used} bits; give --bits 16")
    return _upper_8(values, used), used, notes


def _upper_8(values: npt.NDArray[Any], used: int) -> npt.NDArray[np.uint8]:
    if used < 8:
        return (values.astype(np.uint32) * 255 // ((1 << used) - 1)).astype(np.uint8)
    return (values >> (used - 8)).astype(np.uint8)


def guess_bits(high: int) -> tuple[int, tuple[str, ...]]:
    """Guess how many of 16 bits are used from the largest value, and say so where they are fewer."""
    guess = next((bits for bits in USUAL_DEPTHS if high < 1 << bits), 16)
    if guess == 16 or not high:
        return 16, ()
    note = (
        f"16-bit values up to {high} only: read as {guess} bits; give --bits with the camera's depth, "
        "16 to keep it dark"
    )
    return guess, (note,)


def _unnatural(values: npt.NDArray[Any]) -> PhotoError:
    return PhotoError(
        f"pixels are {values.dtype} in {values.min()}..{values.max()}: expected 8 or 16 bits a colour; "
        "scale them to 0..255 first"
    )
