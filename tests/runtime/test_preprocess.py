import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from ovsdino_runtime.geometry.preprocess import (
    Preprocessing,
    cut_windows,
    fill_windows,
    fit_size,
    normalise,
    resize_bilinear,
    resize_photo,
)
from ovsdino_runtime.geometry.windows import Window


def slow_resize(image, height, width):
    """One pixel after the other: half-pixel centres, two taps a side, edges repeated."""
    source_height, source_width = image.shape[:2]
    out = np.zeros((height, width, *image.shape[2:]))
    for row in range(height):
        y = min(max((row + 0.5) * source_height / height - 0.5, 0), source_height - 1)
        top, dy = math.floor(y), y - math.floor(y)
        bottom = min(top + 1, source_height - 1)
        for column in range(width):
            x = min(max((column + 0.5) * source_width / width - 0.5, 0), source_width - 1)
            left, dx = math.floor(x), x - math.floor(x)
            right = min(left + 1, source_width - 1)
            upper = image[top, left] * (1 - dx) + image[top, right] * dx
            lower = image[bottom, left] * (1 - dx) + image[bottom, right] * dx
            out[row, column] = upper * (1 - dy) + lower * dy
    return out


side = st.integers(1, 23)


@settings(max_examples=60, deadline=None)
@given(source=st.tuples(side, side), target=st.tuples(side, side), channels=st.sampled_from([(), (1,), (3,)]))
def test_resize_is_the_formula(source, target, channels):
    image = np.random.default_rng(0).normal(size=(*source, *channels)).astype(np.float32)
    resized = resize_bilinear(image, *target)
    assert resized.dtype == np.float32
    # float32 blends of values around 1
    np.testing.assert_allclose(resized, slow_resize(image.astype(float), *target), atol=2e-6, rtol=0)


def test_resize_of_bytes_is_rounded_half_up_like_other_libraries():
    image = np.random.default_rng(1).integers(0, 256, (40, 31, 3), dtype=np.uint8)
    resized = resize_photo(image, 17, 53, antialias=False)
    assert resized.dtype == np.uint8
    difference = resized - np.floor(slow_resize(image.astype(float), 17, 53) + 0.5)
    assert abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.001  # float32 on the edge between two values


def test_upscaling_is_what_pillow_does():
    image = np.random.default_rng(2).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    ours = resize_photo(image, 64, 90, antialias=False).astype(int)
    pillow = np.asarray(Image.fromarray(image).resize((90, 64), Image.Resampling.BILINEAR)).astype(int)
    assert abs(ours - pillow).max() <= 1  # Pillow rounds after each side


def test_antialias_averages_what_two_taps_skip():
    stripes = np.zeros((64, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    assert resize_photo(stripes, 8, 64, antialias=True)[:, 2:-2].std() < 5
    assert resize_photo(stripes, 64, 640, antialias=True) is stripes


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((480, 640), (448, 597)),  # 640 * 448 / 480 = 597.33
        ((640, 480), (597, 448)),
        ((500, 375), (597, 448)),  # 597.33
        ((448, 448), (448, 448)),
        ((3000, 4000), (448, 597)),
        ((100, 1000), (205, 2048)),  # the long side is the limit: 204.8 rounds up
        ((1, 5000), (1, 2048)),  # 0.41 px would vanish
        ((7, 5), (627, 448)),  # 627.2
    ],
)
def test_sizes_are_those_of_mmcv(size, expected):
    assert fit_size(*size, short_side=448, long_side=2048) == expected


def test_normalise():
    preprocessing = Preprocessing()
    pixel = np.array([[[0, 128, 255]]], np.uint8)
    expected = [
        (v / 255 - m) / s
        for v, m, s in zip((0, 128, 255), preprocessing.mean, preprocessing.std, strict=True)
    ]
    assert normalise(pixel, preprocessing).dtype == np.float32
    np.testing.assert_allclose(normalise(pixel, preprocessing)[0, 0], expected, rtol=1e-5)


def test_windows_are_cut_and_stretched():
    image = np.random.default_rng(3).normal(size=(10, 40, 3)).astype(np.float32)
    batch = cut_windows(
        image, [Window(top=0, left=5, height=10, width=16), Window(top=0, left=24, height=10, width=16)], 16
    )
    assert batch.shape == (2, 3, 16, 16)
    np.testing.assert_allclose(batch[0].transpose(1, 2, 0), slow_resize(image[:, 5:21], 16, 16), atol=2e-6)
    square = cut_windows(image, [Window(top=0, left=0, height=10, width=10)], 10)
    np.testing.assert_array_equal(square[0], image[:, :10].transpose(2, 0, 1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"short_side": 0}, "expected 1 <= short_side <= long_side, got 0 and 2048"),
        ({"long_side": 100}, "got 448 and 100"),
        ({"std": (1.0, 0.0, 1.0)}, "std must be positive"),
    ],
)
def test_impossible_preprocessing_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**change)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_colours_lie_as_the_network_reads_them_and_are_those_of_the_formula(dtype):
    image = np.random.default_rng(0).integers(0, 256, (9, 7, 3)).astype(dtype)
    rules = Preprocessing()
    mean, std = np.array(rules.mean, np.float32), np.array(rules.std, np.float32)
    normalised = normalise(image, rules)
    np.testing.assert_array_equal(normalised, image * (1 / (255 * std)) - mean / std)
    assert normalised.transpose(2, 0, 1).flags.c_contiguous  # what engines take: not copied again


def test_a_window_of_the_models_size_is_the_photo_itself():
    image = normalise(np.random.default_rng(1).integers(0, 256, (40, 50, 3), dtype=np.uint8), Preprocessing())
    whole, stretched = cut_windows(
        image, [Window(top=3, left=5, height=32, width=32), Window(top=0, left=0, height=40, width=32)], 32
    )
    np.testing.assert_array_equal(whole, image[3:35, 5:37].transpose(2, 0, 1))
    np.testing.assert_array_equal(stretched, resize_bilinear(image[:, :32], 32, 32).transpose(2, 0, 1))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_windows_filled_one_by_one_are_those_of_the_normalised_photo(dtype):
    image = np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(dtype)
    windows = [Window(top=3, left=5, height=32, width=32), Window(top=0, left=0, height=40, width=32)]
    pixels = np.full((2, 3, 32, 32), np.nan, np.float32)
    fill_windows(pixels, image, windows=windows, preprocessing=Preprocessing())
    np.testing.assert_array_equal(pixels, cut_windows(normalise(image, Preprocessing()), windows, 32))


def test_colours_are_normalised_as_imagenet_is():
    assert Preprocessing().mean == IMAGENET_DEFAULT_MEAN
    assert Preprocessing().std == IMAGENET_DEFAULT_STD
