import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.photo import decode_image, load_photo, to_photo

RANDOM = np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def png(path, values, *, colour_type):
    """Write a 16-bit PNG by hand: Pillow cannot write all kinds that it reads."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, content):
        return (
            struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return path


def test_rgb_comes_back_exactly(tmp_path):
    Image.fromarray(RANDOM).save(tmp_path / "photo.png")
    photo = load_photo(tmp_path / "photo.png")
    assert photo.dtype == np.uint8
    np.testing.assert_array_equal(photo, RANDOM)


@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.transpose(1, 0, 2)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].transpose(1, 0, 2)),
        (8, np.rot90),
        (9, lambda a: a),
    ],
)
def test_photos_are_turned_upright(tmp_path, orientation, undo):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(RANDOM).save(tmp_path / "photo.png", exif=exif)
    np.testing.assert_array_equal(load_photo(tmp_path / "photo.png"), undo(RANDOM))


def test_damaged_metadata_does_not_spoil_a_photo(tmp_path):
    Image.fromarray(RANDOM).save(tmp_path / "photo.webp", lossless=True, exif=b"Exif\0\0rubbish")
    np.testing.assert_array_equal(load_photo(tmp_path / "photo.webp"), RANDOM)


def test_grey_is_repeated(tmp_path):
    Image.fromarray(RANDOM[:, :, 0]).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "grey.png"), RANDOM[:, :, :1].repeat(3, axis=2))


def test_black_and_white(tmp_path):
    bits = RANDOM[:, :, 0] > 127
    Image.fromarray(bits).save(tmp_path / "bits.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "bits.png")[:, :, 1], bits * 255)


def test_a_palette_is_looked_up(tmp_path):
    image = Image.frombytes("P", (3, 2), bytes(range(6)))
    colours = RANDOM.reshape(-1, 3)[:6]
    image.putpalette(colours.tobytes())
    image.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "palette.png"), colours.reshape(2, 3, 3))


def test_white_shines_through(tmp_path):
    rgba = np.dstack([RANDOM, np.full((6, 9), 255, np.uint8)])
    rgba[0, :, 3] = 0
    rgba[1, :, 3] = 128
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    photo = load_photo(tmp_path / "alpha.png").astype(float)
    assert (photo[0] == 255).all()
    expected = RANDOM[1] * (128 / 255) + 255 * (127 / 255)
    np.testing.assert_allclose(photo[1], expected, atol=1)
    np.testing.assert_array_equal(photo[2:], RANDOM[2:])


def test_a_transparent_palette_entry_is_white(tmp_path):
    image = Image.frombytes("P", (2, 1), bytes([0, 1]))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.save(tmp_path / "clear.gif", transparency=0)
    np.testing.assert_array_equal(load_photo(tmp_path / "clear.gif"), [[[255, 255, 255], [40, 50, 60]]])


def test_grey_with_alpha(tmp_path):
    Image.frombytes("LA", (2, 1), bytes([100, 255, 100, 0])).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(load_photo(tmp_path / "grey.png")[0, :, 0], [100, 255])


def test_cmyk_is_converted(tmp_path):
    inks = bytes([0, 255, 255, 0])  # magenta and yellow make red
    Image.frombytes("CMYK", (16, 16), inks * 256).save(tmp_path / "print.jpg", quality=100)
    red = load_photo(tmp_path / "print.jpg")[8, 8]
    assert red[0] > 230
    assert red[1:].max() < 40


RAMP = np.array([[0, 255, 256, 25700, 32768, 65535]])


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    photo = load_photo(png(tmp_path / "grey.png", RAMP, colour_type=0))
    np.testing.assert_array_equal(photo[0, :, 0], RAMP[0] >> 8)
    assert photo.shape == (1, 6, 3)


def test_16_bit_rgb_is_scaled_not_clipped(tmp_path):
    values = np.stack([RAMP, RAMP[:, ::-1], RAMP], axis=2)
    photo = load_photo(png(tmp_path / "colour.png", values, colour_type=2))
    assert abs(photo.astype(int) - (values >> 8)).max() <= 1  # some versions of Pillow round


@pytest.mark.parametrize("kind", ["I;16", "I;16B", "I"])
def test_16_bit_tiff(tmp_path, kind):
    dtype = {"I;16": "<u2", "I;16B": ">u2", "I": "<i4"}[kind]
    image = Image.frombytes(kind, (6, 1), RAMP.astype(dtype).tobytes())
    image.save(tmp_path / "grey.tif")
    np.testing.assert_array_equal(load_photo(tmp_path / "grey.tif")[0, :, 2], RAMP[0] >> 8)


def test_pixels_without_a_range_are_refused(tmp_path):
    Image.fromarray(np.float32([[0.5]])).save(tmp_path / "float.tif")
    with pytest.raises(
        PhotoError, match=r"float\.tif: pixels are float32 in 0.5..0.5: expected 8 or 16 bits"
    ):
        load_photo(tmp_path / "float.tif")


@pytest.mark.parametrize("suffix", ["png", "webp", "bmp", "gif"])
@pytest.mark.parametrize("keep", [0.5, 0.9])
def test_a_truncated_photo_is_refused_in_one_line(tmp_path, suffix, keep):
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(RANDOM.repeat(20, axis=0).repeat(20, axis=1)).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(PhotoError, match=r"broken photo|not a photo") as caught:
        load_photo(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"\xff\xd8\xff\xe0"])
def test_what_is_no_photo_is_refused(tmp_path, content):
    (tmp_path / "photo.jpg").write_bytes(content)
    with pytest.raises(PhotoError, match=r"photo\.jpg: (not a photo|broken photo|the file is empty)"):
        load_photo(tmp_path / "photo.jpg")


def test_missing_and_misplaced_paths(tmp_path):
    with pytest.raises(PhotoError, match=r"nothing\.jpg: no such file"):
        load_photo(tmp_path / "nothing.jpg")
    with pytest.raises(PhotoError, match="a directory, expected a photo"):
        load_photo(tmp_path)


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = png(tmp_path / "bomb.png", RAMP, colour_type=0)
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(PhotoError, match=r"bomb\.png: more than 178 megapixels; scale the photo down first"):
        load_photo(path)


def test_photos_in_memory(flag):
    assert to_photo(flag) is flag
    np.testing.assert_array_equal(to_photo(flag[:, :, 0]), flag[:, :, :1].repeat(3, axis=2))
    np.testing.assert_array_equal(decode_image(Image.fromarray(flag).convert("RGBA")).photo, flag)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((3, 4, 3)),
        np.zeros((3, 4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros(3, np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(PhotoError, match=r"expected uint8, \(height, width, 3\)") as caught:
        to_photo(array)
    assert str(array.shape) in str(caught.value)
