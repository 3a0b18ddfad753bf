"""One square cuts photo, masks and boxes alike."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ovsdino.training.data.augment import (
    Square,
    cut_box,
    cut_mask,
    cut_photo,
    draw_square,
    jitter_colours,
    normalise_pixels,
)
from ovsdino.training.data_recipe import NANO_DATA, DataRecipe

MASKS = st.tuples(st.integers(1, 40), st.integers(1, 40)).flatmap(lambda shape: arrays(np.bool_, shape))
SQUARES = [
    Square(0, 0, 90),
    Square(13.3, 7.9, 61.5),
    Square(13.3, 7.9, 61.5, mirrored=True),
    Square(30, 0, 90, mirrored=True),
]


@given(MASKS, st.floats(0, 1), st.floats(0, 1), st.floats(0.05, 1), st.booleans(), st.integers(1, 25))
@settings(max_examples=80, deadline=None)
def test_a_cut_mask_is_the_nearest_pixel_of_each_centre(mask, x, y, share, mirrored, size):
    height, width = mask.shape
    side = share * min(height, width)
    square = Square(left=x * (width - side), top=y * (height - side), side=side, mirrored=mirrored)
    expected = np.zeros((size, size), bool)
    for row in range(size):
        for column in range(size):
            source = size - 1 - column if mirrored else column
            inner_y = min(int(square.top + (row + 0.5) * (side / size)), height - 1)
            inner_x = min(int(square.left + (source + 0.5) * (side / size)), width - 1)
            expected[row, column] = mask[inner_y, inner_x]
    np.testing.assert_array_equal(cut_mask(mask, square, size), expected)


@pytest.mark.parametrize("square", SQUARES)
def test_a_marked_place_is_the_same_in_every_view(square):
    """In the network's view, SAM's view, the mask and the box."""
    photo = np.zeros((90, 120, 3), np.uint8)
    photo[40:46, 50:58] = 255
    (left, top, right, bottom), share = cut_box((50, 40, 58, 46), square)
    middle = ((top + bottom) / 2, (left + right) / 2)
    assert share == 1
    views = {size: cut_photo(photo, square, size)[..., 0].astype(float) for size in (448, 1024)}
    views[224] = cut_mask(photo[..., 0] > 0, square, 224).astype(float)
    for size, view in views.items():
        weight = view / view.sum()
        centres = (np.arange(size) + 0.5) / size
        found = ((weight.sum(1) * centres).sum(), (weight.sum(0) * centres).sum())
        assert found == pytest.approx(middle, abs=1 / 224), size  # half a pixel of the mask to either side


@given(
    st.integers(30, 400),
    st.integers(30, 400),
    st.integers(0, 2**31),
    st.sampled_from([DataRecipe(), replace(NANO_DATA, flip=1.0)]),
)
@settings(max_examples=80, deadline=None)
def test_a_square_lies_in_the_photo_and_has_the_size_that_was_asked_for(height, width, seed, recipe):
    square = draw_square(height, width, recipe=recipe, generator=np.random.default_rng(seed))
    assert square.left >= 0
    assert square.top >= 0
    assert square.left + square.side <= width + 1e-9
    assert square.top + square.side <= height + 1e-9
    short = min(height, width)
    if recipe.crop == "resized":
        assert 0.5 - 1e-9 <= square.side**2 / short**2 <= 1
    else:
        assert square.mirrored
        assert recipe.size - 1e-9 <= recipe.size / square.side * short <= recipe.largest + 1e-9


def test_a_box_is_cut_like_its_pixels():
    generator = np.random.default_rng(0)
    for _ in range(40):
        left, top = generator.integers(0, 90, 2).tolist()
        box = (left, top, left + int(generator.integers(2, 30)), top + int(generator.integers(2, 30)))
        side = float(generator.integers(20, 60))
        square = Square(
            left=float(generator.integers(0, 60)),
            top=float(generator.integers(0, 60)),
            side=side,
            mirrored=bool(left % 2),
        )
        mask = np.zeros((130, 130), bool)
        mask[box[1] : box[3], box[0] : box[2]] = True
        seen = cut_mask(mask, square, int(side))  # a pixel of the square is one of the photo
        cut, share = cut_box(box, square)
        assert share == pytest.approx(seen.sum() / mask.sum())
        if seen.any():
            rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
            edges = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
            np.testing.assert_allclose(np.array(cut) * side, edges, atol=1e-9)


def test_colours_change_within_their_reach_and_only_where_asked():
    photo = np.full((8, 8, 3), 100, np.uint8)
    draws = np.random.default_rng(0)
    assert (jitter_colours(photo, DataRecipe(), draws) == photo).all()
    bright = replace(NANO_DATA, jitter=(0.3, 0, 0, 0))
    values = {int(jitter_colours(photo, bright, draws).max()) for _ in range(60)}
    assert 69 <= min(values) < 80
    assert 120 < max(values) <= 130
    tinted = np.zeros((8, 8, 3), np.uint8) + np.array([200, 60, 60], np.uint8)
    hue = replace(NANO_DATA, jitter=(0, 0, 0, 0.5))
    greys = [jitter_colours(tinted, hue, draws)[0, 0] for _ in range(20)]
    assert len({tuple(grey) for grey in greys}) > 10
    assert all(abs(int(grey.max()) - 200) <= 2 for grey in greys)  # the value stays, the hue turns
    repeated = [jitter_colours(photo, NANO_DATA, np.random.default_rng(5)) for _ in range(2)]
    np.testing.assert_array_equal(*repeated)


def test_normalised_colours():
    photo = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    expected = (photo / 255 - np.array(mean)) / np.array(std)
    np.testing.assert_allclose(
        normalise_pixels(photo, mean, std).numpy(), expected.transpose(2, 0, 1), atol=1e-5
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop_scale": (0.8, 0.5)}, "crop_scale must be two shares"),
        ({"label_stride": 5}, "label_stride must divide size=448, got 5"),
        ({"crop": "zoom", "largest": 300}, "largest must be at least size=448, got 300"),
        ({"positives": 0}, "positives must be at least 1, got 0"),
        ({"negatives": -1}, "negatives must not be negative, got -1"),
        ({"flip": 1.5}, "flip must lie in 0..1, got 1.5"),
        ({"temperature": 0.0}, "temperature must be positive, got 0.0"),
    ],
)
def test_recipes_that_cannot_work_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(DataRecipe(), **changes)


@pytest.mark.parametrize("size", range(640, 913, 16))
def test_a_zoomed_square_never_leaves_a_photo_of_its_own_size(size):
    recipe = replace(NANO_DATA, size=size, largest=size)
    for seed in range(3):
        square = draw_square(300, 400, recipe=recipe, generator=np.random.default_rng(seed))
        assert square.side <= 300
        assert 0 <= square.left <= 400 - square.side
        assert 0 <= square.top <= 300 - square.side
