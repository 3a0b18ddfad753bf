"""Where the photos for parity come from."""

import numpy as np
import pytest
from PIL import Image

from ovsdino_export import photos
from ovsdino_export.photos import gather_photos, middle, paint
from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.photo_options import PhotoOptions
from ovsdino_runtime.geometry.preprocess import Preprocessing


def test_painted_photos_are_always_the_same_and_not_flat():
    np.testing.assert_array_equal(paint(3, 64), paint(3, 64))
    assert (paint(3, 64) != paint(4, 64)).any()
    assert paint(3, 64).shape == (64, 64, 3)
    assert paint(3, 64).std() > 20


def test_without_a_folder_or_examples_photos_are_painted(monkeypatch, tmp_path):
    monkeypatch.setattr(photos, "REPOSITORY", tmp_path)
    found = gather_photos(None, 32)
    assert found.source == "painted textures"
    assert len(found.photos) == photos.MOST


def test_a_checkouts_examples_are_the_default(monkeypatch, tmp_path):
    (tmp_path / "examples").mkdir()
    (tmp_path / "setup.cfg").touch()
    Image.fromarray(paint(0, 50)).save(tmp_path / "examples" / "a.PNG")
    monkeypatch.setattr(photos, "REPOSITORY", tmp_path)
    found = gather_photos(None, 32)
    assert found.source == "1 photos of examples"
    assert found.photos[0].shape == (32, 32, 3)


def test_photos_of_a_large_folder_are_spread_evenly(tmp_path):
    for i in range(20):
        Image.new("RGB", (40, 40), (i, 0, 0)).save(tmp_path / f"{i:02d}.png")
    found = gather_photos(tmp_path, 32)
    assert [int(photo[0, 0, 0]) for photo in found.photos] == [0, 2, 5, 7, 10, 12, 15, 17]


def test_a_folder_without_photos_is_refused(tmp_path):
    with pytest.raises(PhotoError, match="no photos in it"):
        gather_photos(tmp_path, 32)


def test_photos_are_read_by_the_options(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    pixels = np.zeros((40, 40, 4), np.uint8)
    pixels[:, :, 3] = 200
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="minisblack", planarconfig="contig")
    with pytest.raises(PhotoError, match="give --bands"):
        gather_photos(tmp_path, 32)
    found = gather_photos(tmp_path, 32, options=PhotoOptions(bands=(4, 1, 1)))
    assert found.photos[0][5, 5].tolist() == [200, 0, 0]


def test_the_middle_is_cut():
    photo = np.zeros((10, 30, 3), np.uint8)
    photo[:, 10:20] = 255
    assert (middle(photo, 10) == 255).all()
    assert middle(paint(0, 70)[:50], 32).shape == (32, 32, 3)


def test_pixels_are_normalised_as_the_runtime_does():
    found = gather_photos(None, 16)
    rules = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.5, 1.0))
    pixels = found.pixels(rules)
    assert pixels.shape == (len(found.photos), 3, 16, 16)
    expected = (found.photos[1][3, 5] / 255 - 0.5) / (0.25, 0.5, 1.0)
    np.testing.assert_allclose(pixels[1, :, 3, 5], expected, atol=1e-5)
