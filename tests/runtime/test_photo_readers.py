"""Photos of every common format equal an independent reader's pixels: imagecodecs or OpenCV."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ovsdino_runtime.base.photo import decode_file
from tests.runtime.orientations import UPRIGHT

imagecodecs = pytest.importorskip("imagecodecs")
cv2 = pytest.importorskip("cv2")

MANY = settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_opencv(data):
    """Decode to RGB, as stored."""
    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)[:, :, ::-1]


def by_imagecodecs(name):
    """Return a decoder of imagecodecs that gives RGB."""

    def decode(data):
        pixels = getattr(imagecodecs, f"{name}_decode")(data)
        pixels = pixels[:, :, None] if pixels.ndim == 2 else pixels
        if pixels.dtype == np.uint16:
            pixels = (pixels >> 8).astype(np.uint8)
        return np.broadcast_to(pixels[:, :, :3], (*pixels.shape[:2], 3))

    return decode


FORMATS = {  # format -> the independent reader, options of the writer, whether it has an orientation
    "PNG": (by_imagecodecs("png"), {}, True),
    "WEBP": (by_imagecodecs("webp"), {"lossless": True}, True),
    "JPEG": (by_opencv, {"quality": 95}, True),
    "JPEG2000": (by_imagecodecs("jpeg2k"), {}, False),
    "PPM": (by_opencv, {}, False),
    "BMP": (by_opencv, {}, False),
    "GIF": (by_opencv, {}, False),
}


@st.composite
def photos(draw):
    """Draw a format, pixels in one of its depths, and an orientation."""
    name = draw(st.sampled_from(sorted(FORMATS)))
    kinds = {"PNG": ["L", "RGB", "L16"], "PPM": ["L", "RGB", "L16"], "GIF": ["L"]}
    kind = draw(st.sampled_from(kinds.get(name, ["L", "RGB"])))
    height, width = draw(st.tuples(st.integers(8, 40), st.integers(8, 40)))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    shape = (height, width, 3) if kind == "RGB" else (height, width)
    if kind == "L16":
        pixels = random.integers(0, 65536, shape).astype(np.uint16)
        pixels[0, 0] = 65535  # else the photo may look like one of fewer bits
    else:
        pixels = random.integers(0, 256, shape).astype(np.uint8)
    return name, pixels, draw(st.sampled_from(sorted(UPRIGHT))) if FORMATS[name][2] else 1


@MANY
@given(photos())
def test_a_photo_is_read_as_an_independent_reader_reads_it(case):
    name, pixels, orientation = case
    reader, options, turns = FORMATS[name]
    exif = Image.Exif()
    exif[0x112] = orientation
    more = {"exif": exif} if turns else {}
    Image.fromarray(pixels).save(file := BytesIO(), name, **options, **more)
    expected = UPRIGHT[orientation](reader(file.getvalue()))
    found = decode_file(BytesIO(file.getvalue())).photo
    np.testing.assert_array_equal(found, expected)


@MANY
@given(st.integers(1, 40), st.integers(1, 40), st.booleans(), st.integers(0, 2**32))
def test_targa_in_both_row_orders(height, width, from_top, seed):
    """Targa by hand: 18 bytes, then blue, green, red; bit 5 of the last byte is the order of the rows."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    size = width.to_bytes(2, "little") + height.to_bytes(2, "little")
    header = bytes([0, 0, 2]) + bytes(9) + size + bytes([24, 0x20 if from_top else 0])
    rows = pixels if from_top else pixels[::-1]
    found = decode_file(BytesIO(header + rows[:, :, ::-1].tobytes())).photo
    np.testing.assert_array_equal(found, pixels)


def test_chroma_of_a_ycbcr_tiff_is_enlarged_as_libjpeg_does():
    """GDAL repeats the chroma of each 2x2 block; tifffile and OpenCV interpolate it, as of JPEG files."""
    tifffile = pytest.importorskip("tifffile")
    pixels = np.asarray(Image.radial_gradient("L").resize((64, 64)).convert("RGB")).copy()
    pixels[:, :, 0] = pixels[:, ::-1, 0] // 2
    arguments = {"photometric": "ycbcr", "compression": "jpeg", "tile": (32, 32), "subsampling": (2, 2)}
    tifffile.imwrite(file := BytesIO(), pixels, **arguments)
    found = decode_file(BytesIO(file.getvalue())).photo
    np.testing.assert_array_equal(found, tifffile.imread(BytesIO(file.getvalue())))
    np.testing.assert_array_equal(found, by_opencv(file.getvalue()))
