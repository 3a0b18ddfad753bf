"""Photos of every layout and depth: each equals an independent reader's pixels, or is refused in one line."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ovsdino_runtime.base.bit_depth import to_8_bits
from ovsdino_runtime.base.errors import OptionError, PhotoError, PhotoWarning
from ovsdino_runtime.base.orientation import upright_array
from ovsdino_runtime.base.photo import decode_image, decode_photo, load_photo
from ovsdino_runtime.base.photo_options import PhotoOptions
from tests.runtime.orientations import UPRIGHT

tifffile = pytest.importorskip("tifffile")
pytest.importorskip("imagecodecs")

READERS = [("rasterio", "tifffile"), ("tifffile",), ()]  # that are installed


@pytest.fixture(params=READERS, ids=lambda names: "+".join(names) or "Pillow alone")
def readers(request, monkeypatch):
    """Leave these readers installed."""
    from ovsdino_runtime.base import tiff

    for name in request.param:
        pytest.importorskip(name)
    monkeypatch.setattr(tiff, "find_spec", lambda name: name if name in request.param else None)
    return request.param


@st.composite
def tiffs(draw):
    """Draw the pixels of a TIFF and the arguments with which tifffile writes it."""
    photometric = draw(st.sampled_from(["minisblack", "miniswhite", "rgb"]))
    dtype = draw(st.sampled_from(["u1", "<u2", ">u2"]))
    height, width = draw(st.tuples(st.integers(1, 40), st.integers(1, 40)))
    extra = draw(st.sampled_from([[], ["unspecified"], ["unassalpha"]])) if photometric == "rgb" else []
    samples = 3 + len(extra) if photometric == "rgb" else 1
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    largest = np.iinfo(dtype).max
    pixels = rng.integers(0, largest, (height, width, samples), endpoint=True).astype(dtype)
    pixels[:, :, 3:] = pixels[:, :, 3:].clip(1, largest - 1)  # nowhere clear or opaque: no alpha
    pixels[0, 0] = largest  # else a small photo may look like one of fewer bits
    planar = samples > 1 and draw(st.booleans())
    orientation = draw(st.sampled_from(list(UPRIGHT)))
    options = {
        "photometric": photometric,
        "byteorder": ">" if dtype == ">u2" else "<",
        "compression": draw(st.sampled_from([None, "zlib", "lzw"])),
        "predictor": None,
        "tile": draw(st.sampled_from([None, (16, 16)])),
        "bigtiff": dtype != ">u2" and draw(st.booleans()),
        "extrasamples": extra or None,
        "extratags": [(274, "H", 1, orientation, True)],
        "metadata": None,
    }
    if samples > 1:
        options["planarconfig"] = "separate" if planar else "contig"
    stored = np.moveaxis(pixels, 2, 0) if planar else pixels
    return (stored[:, :, 0] if samples == 1 else stored), pixels, orientation, options


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(tiffs())
def test_a_tiff_of_any_layout_is_read_right_or_refused(readers, tmp_path, case):
    stored, pixels, orientation, options = case
    tifffile.imwrite(tmp_path / "photo.tif", stored, **options)
    expected = pixels[:, :, :3] >> (8 * (pixels.dtype.itemsize - 1))  # random bands are no transparency
    if options["photometric"] == "miniswhite":
        expected = 255 - expected
    expected = np.broadcast_to(UPRIGHT[orientation](expected), (*UPRIGHT[orientation](expected).shape[:2], 3))
    try:
        photo, refused = decode_photo(tmp_path / "photo.tif").photo, ""
    except PhotoError as error:
        photo, refused = None, str(error)
    if photo is None:  # only what no reader is there for is refused
        assert not readers, refused
        assert "pip install" in refused
    else:
        np.testing.assert_array_equal(photo, expected)


def test_a_big_endian_bigtiff_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", np.zeros((4, 4), np.uint8), bigtiff=True, byteorder=">")
    with pytest.raises(PhotoError, match=r"p\.tif: a big-endian BigTIFF; write it with gdal"):
        load_photo(tmp_path / "p.tif")


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_arrays_are_turned_as_plain_indexing_does(orientation):
    pixels = np.arange(24).reshape(2, 4, 3)
    np.testing.assert_array_equal(upright_array(pixels, orientation), UPRIGHT[orientation](pixels))


@pytest.mark.parametrize("bits", [10, 12, 14])
@pytest.mark.parametrize("suffix", ["tif", "png"])
def test_few_bits_in_16_are_no_black_picture(tmp_path, bits, suffix):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    file = tmp_path / f"photo.{suffix}"
    Image.fromarray(grey << (bits - 8)).save(file)
    with pytest.warns(PhotoWarning, match=f"read as {bits} bits; give --bits"):
        photo = load_photo(file)
    np.testing.assert_array_equal(photo[:, :, 0], grey)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        np.testing.assert_array_equal(load_photo(file, options=PhotoOptions(bits=bits))[:, :, 1], grey)
        assert load_photo(file, options=PhotoOptions(bits=16)).max() < 64


def test_declared_depths_hold(tmp_path):
    grey = np.arange(256, dtype=np.uint16).reshape(16, 16)
    tifffile.imwrite(tmp_path / "signed.tif", (grey << 7).astype(np.int16), metadata=None)
    tifffile.imwrite(tmp_path / "max.tif", grey << 4, extratags=[(281, "H", 1, 4095, True)], metadata=None)
    for name in ("signed.tif", "max.tif"):
        decoded = decode_photo(tmp_path / name)
        np.testing.assert_array_equal(decoded.photo[:, :, 0], grey)
        assert not decoded.notes


def test_values_beyond_the_bits_are_refused():
    with pytest.raises(PhotoError, match="the largest value is 5000, which needs more than 12 bits; give"):
        to_8_bits(np.array([5000]), declared=None, bits=12)
    with pytest.raises(PhotoError, match=r"-3\.\.9: expected 8 or 16 bits a colour; scale them"):
        to_8_bits(np.array([-3, 9]), declared=None, bits=None)


def test_an_image_of_wide_integers_made_from_bytes_keeps_its_greys():
    grey = np.arange(256, dtype=np.uint8).reshape(16, 16)
    np.testing.assert_array_equal(decode_image(Image.fromarray(grey).convert("I")).photo[:, :, 0], grey)


def test_bands_without_colours_are_chosen_or_refused(tmp_path):
    bands = np.random.default_rng(0).integers(0, 256, (6, 9, 5), dtype=np.uint8)
    file = tmp_path / "field.tif"
    tifffile.imwrite(file, bands, photometric="minisblack", planarconfig="contig", metadata=None)
    with pytest.raises(PhotoError, match=r"field\.tif: a TIFF of 5 bands .* give --bands, such as 1,2,3"):
        load_photo(file)
    np.testing.assert_array_equal(
        load_photo(file, options=PhotoOptions(bands=(4, 2, 1))), bands[:, :, [3, 1, 0]]
    )
    np.testing.assert_array_equal(load_photo(file, options=PhotoOptions(bands=(5,)))[:, :, 0], bands[:, :, 4])
    with pytest.raises(PhotoError, match="band 6 was asked for, it has 5"):
        load_photo(file, options=PhotoOptions(bands=(1, 2, 6)))
    with pytest.raises(OptionError, match="expected one"):
        PhotoOptions(bands=(1, 2))


@pytest.mark.parametrize("alpha", [True, False])
def test_a_band_that_is_marked_as_alpha_must_look_like_it(tmp_path, alpha):
    pixels = np.full((8, 8, 4), 100, np.uint8)
    pixels[:, :, 3] = np.where(np.arange(8) < 4, 0, 255) if alpha else np.arange(64).reshape(8, 8)
    tifffile.imwrite(
        tmp_path / "p.tif", pixels, photometric="rgb", extrasamples=["unassalpha"], metadata=None
    )
    decoded = decode_photo(tmp_path / "p.tif")
    assert decoded.photo[0].T[0].tolist() == ([255] * 4 + [100] * 4 if alpha else [100] * 8)
    assert bool(decoded.notes) is not alpha


def test_pixels_without_data_are_told(tmp_path):
    pixels = np.full((4, 6, 3), 50, np.uint8)
    pixels[:, :2] = 0
    pixels[0, 3, 0] = 0  # one band alone: data
    tifffile.imwrite(
        tmp_path / "p.tif", pixels, photometric="rgb", extratags=[(42113, "s", 0, "0", True)], metadata=None
    )
    valid = decode_photo(tmp_path / "p.tif").valid
    np.testing.assert_array_equal(valid, np.broadcast_to(np.arange(6) >= 2, (4, 6)))


def test_pages_behind_the_first_are_told(tmp_path):
    first, second = Image.new("RGB", (3, 2), "red"), Image.new("RGB", (3, 2), "blue")
    first.save(tmp_path / "p.tif", save_all=True, append_images=[second])
    decoded = decode_photo(tmp_path / "p.tif")
    assert decoded.photo[0, 0].tolist() == [255, 0, 0]
    assert decoded.notes == ("it has 2 pages: only the first was read",)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_last_bytes_is_read_with_a_note(tmp_path, progressive):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
    file = tmp_path / "p.jpg"
    Image.fromarray(pixels).save(file, progressive=progressive, quality=90)
    whole, data = load_photo(file), file.read_bytes()
    file.write_bytes(data[:-2])
    decoded = decode_photo(file)
    assert decoded.notes == ("its last bytes are missing: read up to there",)
    np.testing.assert_array_equal(decoded.photo[:-16], whole[:-16])
    with pytest.raises(PhotoError, match="truncated"):
        load_photo(file, options=PhotoOptions(strict=True))
    file.write_bytes(data[: len(data) // 2])
    with pytest.raises(PhotoError, match="truncated"):
        load_photo(file)


def test_a_decoder_that_raises_anything_is_refused_by_name(tmp_path, monkeypatch):
    file = tmp_path / "p.png"
    Image.new("RGB", (3, 2)).save(file)

    def fail(_image):
        raise ZeroDivisionError("in a decoder")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(PhotoError, match=r"p\.png: broken photo: in a decoder"):
        load_photo(file)


def test_without_pillow_heif_the_extra_is_named(tmp_path):
    file = tmp_path / "p.heic"
    file.write_bytes(b"\0\0\0\x18ftypheic" + bytes(20))
    program = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from ovsdino_runtime.base.photo import load_photo\n"
        f"try: load_photo({str(file)!r})\n"
        "except Exception as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert "HEIC photos need pillow-heif: pip install '.[heif]'" in said


def test_other_primaries_become_those_of_srgb(tmp_path):
    from PIL import ImageCms

    grey = np.arange(0, 256, 5, dtype=np.uint8)
    pixels = np.stack(np.meshgrid(grey, grey, [90]), axis=-1)[:, :, 0].astype(np.uint8)
    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    own = ImageCms.ImageCmsProfile(srgb).tobytes()
    assert own.count(b"rXYZ") == own.count(b"gXYZ") == 1  # in the table of tags
    swapped = own.replace(b"rXYZ", b"????").replace(b"gXYZ", b"rXYZ").replace(b"????", b"gXYZ")
    Image.fromarray(pixels).save(tmp_path / "swapped.png", icc_profile=swapped)  # its red is our green
    photo = load_photo(tmp_path / "swapped.png").astype(int)
    assert np.abs(photo - pixels[:, :, [1, 0, 2]]).max() <= 2
    Image.fromarray(pixels).save(tmp_path / "own.png", icc_profile=own)
    np.testing.assert_array_equal(load_photo(tmp_path / "own.png"), pixels)  # sRGB stays to the bit
    Image.fromarray(pixels).save(tmp_path / "lab.png", icc_profile=ImageCms.ImageCmsProfile(lab).tobytes())
    decoded = decode_photo(tmp_path / "lab.png")
    np.testing.assert_array_equal(decoded.photo, pixels)
    assert "its colour profile cannot be used" in decoded.notes[0]
