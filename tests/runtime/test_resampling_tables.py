"""The device's tables against the host's own resizing, cutting and merging."""

import numpy as np
import pytest

from ovsdino_runtime.device.resampling_tables import Taps, cut_side, merge_bands, node_offsets, resize_taps
from ovsdino_runtime.geometry.merge import merge_geometry
from ovsdino_runtime.geometry.preprocess import cut_windows, fit_size, resize_photo
from ovsdino_runtime.geometry.windows import plan_windows

SIZE, STRIDE = 24, 10
PHOTOS = [(30, 41), (1, 1), (7, 300), (300, 7), (24, 24), (97, 64), (200, 333)]


def dense(taps: Taps, source: int) -> np.ndarray:
    matrix = np.zeros((len(taps.starts), source))
    for row, start, weights in zip(matrix, taps.starts, taps.weights, strict=True):
        row[start : start + len(weights)] = weights
    return matrix


def random_photo(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", PHOTOS, ids=str)
def test_resized_and_cut_sides_are_the_hosts(size, antialias):
    photo = random_photo(*size)
    resized = fit_size(*size, short_side=SIZE, long_side=4 * SIZE)
    windows = plan_windows(*resized, size=SIZE, stride=STRIDE)
    small = resize_photo(photo, *resized, antialias=antialias).astype(np.float32)
    expected = cut_windows(small, windows, SIZE)  # (B, 3, S, S) in 0..255
    rows, columns = (
        dense(resize_taps(size[axis], resized[axis], antialias=antialias), size[axis]) for axis in (0, 1)
    )
    np.testing.assert_allclose(rows.sum(axis=1), 1, atol=1e-6)
    values = photo.transpose(2, 0, 1)  # (3, H, W)
    if antialias:  # Pillow rounds after each side, columns first but in narrow photos
        again = [np.floor(rows @ np.floor(values @ columns.T + 0.5) + 0.5)]
        again += [np.floor(np.floor(rows @ values + 0.5) @ columns.T + 0.5)]
    else:
        again = [np.floor(rows @ values @ columns.T + 0.5)]
    difference = [np.abs(one.transpose(1, 2, 0) - small) for one in again]
    assert difference[0].max() <= 1
    assert max((one == 0).mean() for one in difference) > 0.97  # halves may be rounded the other way
    for axis, side in enumerate(("top", "left")):
        starts = sorted({getattr(window, side) for window in windows})
        cut = cut_side(starts, min(SIZE, resized[axis]), size=SIZE)
        high = np.minimum(cut.lows + 1, resized[axis] - 1)
        share = np.expand_dims(cut.shares, tuple({0, 1, 2} - {axis}))
        small = small.take(cut.lows, axis) * (1 - share) + small.take(high, axis) * share
    down, across = (side // SIZE for side in small.shape[:2])
    actual = small.reshape(down, SIZE, across, SIZE, 3).transpose(0, 2, 4, 1, 3).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, atol=1e-3)


def test_a_side_that_keeps_its_length_is_copied():
    for antialias in (False, True):
        np.testing.assert_array_equal(dense(resize_taps(5, 5, antialias=antialias), 5), np.eye(5))


@pytest.mark.parametrize("photo", PHOTOS, ids=str)
def test_bands_hold_the_merges_matrices(photo):
    resized = fit_size(*photo, short_side=SIZE, long_side=4 * SIZE)
    windows = plan_windows(*resized, size=SIZE, stride=STRIDE)
    grid = (3, 4)
    geometry = merge_geometry(windows, grid, resized=resized, photo=photo, taper=0.4)
    offsets = node_offsets(windows, grid)
    numbered = np.arange(len(windows) * 12).reshape(len(windows), *grid)
    across = geometry.columns.nodes // 4
    mosaic = numbered.reshape(-1, across, *grid).transpose(0, 2, 1, 3).reshape(-1, across * 4)
    np.testing.assert_array_equal(np.add.outer(*offsets), mosaic)
    for axis, places in zip((geometry.rows, geometry.columns), offsets, strict=True):
        matrix = axis.weights(0, axis.length)
        bands = merge_bands(axis, places, pixels=8)
        assert bands.nodes.shape[1] % 16 == 0
        rebuilt = np.zeros((len(bands.weights), int(places.max()) + 1), np.float32)
        for pixel, weights in enumerate(bands.weights):
            np.add.at(rebuilt[pixel], bands.nodes[pixel // 8], weights)
        np.testing.assert_array_equal(rebuilt[: len(matrix), places], matrix)
        assert not rebuilt[len(matrix) :].any()
