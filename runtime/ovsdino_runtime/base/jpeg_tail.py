"""Decode JPEGs whose last bytes are missing, as viewers do; reject JPEGs that miss more."""

from io import BytesIO

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.errors import PhotoError

END = b"\xff\xd9"
START_OF_SCAN, PROGRESSIVE = 0xDA, 0xC2
WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
MAX_SCAN_HEADER = 14  # [bytes]
CUTS = (8, 32, 128, 512, 2048)  # [bytes] cut off to find where in the picture the data ends
MAX_LOST_ROWS = (
    18  # [px], or 1/16 of the picture: one row of blocks, and the rows that smoothing mixes with it
)


def has_end(data: bytes) -> bool:
    """Tell whether a JPEG ends with its end marker; zeros after it are ignored."""
    return data.rstrip(b"\0").endswith(END)


def complete_jpeg(data: bytes) -> bytes:
    """Append the end marker to a JPEG whose last bytes are missing, so that it can be decoded.

    Raises:
        PhotoError: more than about one row of blocks is missing.
    """
    if not _has_all_scans(data):
        raise PhotoError("broken photo: truncated: its later scans are missing; get the photo again")
    whole = _decode(data + END)
    scan = len(data) - data.rfind(bytes((0xFF, START_OF_SCAN))) - MAX_SCAN_HEADER  # [bytes] of the last one
    for cut in (cut for cut in CUTS if cut < scan):
        rows = np.flatnonzero((_decode(data[:-cut] + END) != whole).any(axis=(1, 2)))
        if rows.size:
            if len(whole) - rows[0] <= max(MAX_LOST_ROWS, len(whole) // 16):
                return data + END
            break
    raise PhotoError("broken photo: truncated in the middle; get the photo again")


def _decode(data: bytes) -> npt.NDArray[np.uint8]:
    from PIL import Image

    with Image.open(BytesIO(data), formats=("JPEG",)) as image:
        return np.asarray(image.convert("RGB"))


def _has_all_scans(data: bytes) -> bool:
    """Tell whether a progressive JPEG contains a scan for each bit of each coefficient."""
    position, progressive, components = 2, False, b""
    missing: set[tuple[int, int]] = set()
    while 0 <= (position := data.find(b"\xff", position)) < len(data) - 4:
        marker = data[position + 1]
        if marker in (0x00, 0xFF) or marker in WITHOUT_LENGTH:
            position += 1 if marker == 0xFF else 2
            continue
        length = int.from_bytes(data[position + 2 : position + 4], "big")
        body = data[position + 4 : position + 2 + length]
        if marker == PROGRESSIVE:
            progressive, components = True, body[6::3]
            missing = {(component, k) for component in components for k in range(64)}
        elif marker == START_OF_SCAN and progressive and len(body) >= 4 + 2 * body[0]:
            first, last, bit = body[-3], body[-2], body[-1] & 15
            if bit == 0:
                used = body[1 : 1 + 2 * body[0] : 2]
                missing -= {(component, k) for component in used for k in range(first, last + 1)}
        position += 2 + length
    return not missing
