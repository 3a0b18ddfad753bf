"""Read arrays from ``.npz`` files that may be damaged or hostile: sizes are checked before memory is used."""

import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.regular_file import regular_file

MAX_BYTES = 1 << 30  # of one array
MAX_HEADER = 10_000  # [bytes], numpy's own limit
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
SLACK = 64 << 10  # [bytes] by which a member may be larger than its array: the header


def read_arrays(
    path: Path, names: Iterable[str], *, max_bytes: int = MAX_BYTES
) -> dict[str, npt.NDArray[Any]]:
    """Read arrays by name; pickles are not read.

    Args:
        path: the file.
        names: of the arrays.
        max_bytes: largest size of one array.

    Raises:
        OSError: the file is missing or not a regular file.
        ValueError: the file is no archive of arrays, is damaged, lacks one of them, or one is too large.
    """
    try:
        with ZipFile(regular_file(path)) as archive:
            return {name: _read_array(archive, name, max_bytes) for name in names}
    except (BadZipFile, zlib.error, EOFError, KeyError, NotImplementedError, RuntimeError) as error:
        reason = " ".join(str(error).split()).strip("'") or type(error).__name__
        raise ValueError(f"no readable archive of arrays ({reason:.200})") from error


def _read_array(archive: ZipFile, name: str, max_bytes: int) -> npt.NDArray[Any]:
    """Read one array; its header must agree with the size of the archive's member."""
    member = archive.getinfo(f"{name}.npy")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        if version not in HEADERS:
            raise ValueError(f"{name} has numpy's format {version}, expected 1.0 or 2.0")
        shape, _, dtype = HEADERS[version](file, max_header_size=MAX_HEADER)
    size = dtype.itemsize
    for length in shape:
        size *= length
    if dtype.hasobject or dtype.itemsize == 0:
        raise ValueError(f"{name} is {dtype}, expected numbers or text")
    if size > max_bytes or member.file_size > max_bytes + SLACK:
        raise ValueError(f"{name} has {max(size, member.file_size)} bytes, expected at most {max_bytes}")
    if not size <= member.file_size <= size + SLACK:
        raise ValueError(f"{name} should have {size} bytes, {member.file_size} are stored")
    with archive.open(member) as file:
        return np.lib.format.read_array(file, allow_pickle=False, max_header_size=MAX_HEADER)
