"""Refined labels: the guided filter, small regions, and upsampling, each against an obvious way."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovsdino_runtime.base.errors import EngineError, OptionError
from ovsdino_runtime.geometry import refine
from ovsdino_runtime.geometry.guided_filter import add_squares, best_box_sum, guided_filter
from ovsdino_runtime.geometry.merge import (
    MergeAxis,
    MergeGeometry,
    merge_argmax,
    merge_geometry,
    merge_scores,
)
from ovsdino_runtime.geometry.preprocess import bilinear_taps, resize_bilinear
from ovsdino_runtime.geometry.refine import (
    NO_BACKGROUND,
    RefineGeometry,
    Refinement,
    best_class,
    coarse_size,
    refine_argmax,
    upsample_argmax,
)
from ovsdino_runtime.geometry.regions import find_regions, merge_small_regions
from ovsdino_runtime.geometry.whole_photo import blend_whole
from ovsdino_runtime.geometry.windows import Window, plan_windows
from ovsdino_runtime.segmenter import Segmenter


def slow_sums(planes, radius):
    sums = np.zeros_like(planes, np.float64)
    for row in range(planes.shape[1]):
        for column in range(planes.shape[2]):
            square = planes[
                :,
                max(0, row - radius) : row + radius + 1,
                max(0, column - radius) : column + radius + 1,
            ]
            sums[:, row, column] = square.sum(axis=(1, 2))
    return sums


@pytest.mark.parametrize("radius", [1, 2, 3, 6, 9])
@pytest.mark.parametrize("size", [(13, 20), (1, 9), (4, 1), (5, 5)])
def test_squares_are_added_up(size, radius):
    planes = np.random.default_rng(0).normal(size=(3, *size)).astype(np.float32)
    np.testing.assert_allclose(add_squares(planes, radius), slow_sums(planes, radius), atol=1e-4)


def test_opencv_adds_up_the_same():
    pytest.importorskip("cv2")
    assert best_box_sum() is not add_squares
    planes = np.random.default_rng(0).normal(size=(4, 31, 50)).astype(np.float32)
    np.testing.assert_allclose(best_box_sum()(planes, 6), add_squares(planes, 6), atol=1e-4)


def slow_guided_filter(guide, scores, radius, epsilon):
    """Fit each window by least squares with a ridge, and average the fits: the definition."""
    height, width = scores.shape
    colours = guide.reshape(height, width, 3) / 255
    slopes, shifts = np.zeros((height, width, 3)), np.zeros((height, width))

    def window(row, column):
        return (
            slice(max(0, row - radius), row + radius + 1),
            slice(max(0, column - radius), column + radius + 1),
        )

    for row in range(height):
        for column in range(width):
            inputs = colours[window(row, column)].reshape(-1, 3)
            targets = scores[window(row, column)].ravel()
            centred = inputs - inputs.mean(axis=0)
            covariance = centred.T @ centred / len(inputs) + epsilon * np.eye(3)
            slopes[row, column] = np.linalg.solve(
                covariance, centred.T @ (targets - targets.mean()) / len(inputs)
            )
            shifts[row, column] = targets.mean() - slopes[row, column] @ inputs.mean(axis=0)
    filtered = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            slope = slopes[window(row, column)].reshape(-1, 3).mean(axis=0)
            filtered[row, column] = slope @ colours[row, column] + shifts[window(row, column)].mean()
    return filtered


@pytest.mark.parametrize("kind", ["colour", "grey", "flat"])
@pytest.mark.parametrize("box_sum", [add_squares, None])
def test_the_guided_filter_is_its_definition(kind, box_sum):
    random = np.random.default_rng(1)
    guide = random.integers(0, 256, (14, 19, 3), dtype=np.uint8)
    if kind == "grey":
        guide = np.repeat(guide[:, :, :1], 3, axis=2)
    elif kind == "flat":
        guide = np.full_like(guide, 77)
    scores = random.normal(size=(14, 19)).astype(np.float32)
    actual = guided_filter(guide, radius=3, epsilon=1e-3, box_sum=box_sum)(scores[None])[0]
    np.testing.assert_allclose(actual, slow_guided_filter(guide, scores, 3, 1e-3), atol=2e-3)


def test_maps_do_not_disturb_each_other():
    random = np.random.default_rng(2)
    guide = random.integers(0, 256, (30, 41, 3), dtype=np.uint8)
    maps = random.normal(size=(3, 30, 41)).astype(np.float32)
    smooth = guided_filter(guide, radius=4, epsilon=1e-4)
    together, alone = smooth(maps), np.concatenate([smooth(one[None]) for one in maps])
    np.testing.assert_array_equal(together, alone)


def test_the_first_of_equal_classes_is_the_best():
    scores = np.random.default_rng(3).integers(0, 4, (5, 20, 30)).astype(np.float32)
    best, top = best_class(scores)
    np.testing.assert_array_equal(best, scores.argmax(axis=0))
    np.testing.assert_array_equal(top, scores.max(axis=0))


def flood(labels):
    """Number regions by walking from pixel to pixel."""
    numbers, count = np.full(labels.shape, -1), 0
    for start in np.ndindex(labels.shape):
        if numbers[start] >= 0:
            continue
        stack = [start]
        while stack:
            place = stack.pop()
            if numbers[place] >= 0:
                continue
            numbers[place] = count
            for step in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                near = (place[0] + step[0], place[1] + step[1])
                inside = 0 <= near[0] < labels.shape[0] and 0 <= near[1] < labels.shape[1]
                if inside and labels[near] == labels[place]:
                    stack.append(near)
        count += 1
    return numbers


label_maps = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(1, 4), st.integers(0, 10**6))


@settings(max_examples=60, deadline=None)
@given(label_maps)
def test_regions_are_those_of_a_walk(case):
    height, width, classes, seed = case
    labels = np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint16)
    regions = find_regions(labels)
    np.testing.assert_array_equal(regions.numbers, flood(labels))
    np.testing.assert_array_equal(regions.labels[regions.numbers], labels)
    np.testing.assert_array_equal(regions.areas, np.bincount(regions.numbers.ravel()))


def test_a_spiral_is_one_region():
    labels = np.zeros((41, 41), np.uint16)
    row = column = 0
    step, turns = (0, 1), 0
    while turns < 2:  # walk until there is no way on
        labels[row, column] = 1
        ahead = row + 2 * step[0], column + 2 * step[1]
        near = row + step[0], column + step[1]
        free = all(0 <= side < 41 for side in near) and (
            not all(0 <= side < 41 for side in ahead) or labels[ahead] == 0
        )
        if free and labels[near] == 0:
            (row, column), turns = near, 0
        else:
            step, turns = (step[1], -step[0]), turns + 1
    regions = find_regions(labels)
    assert np.count_nonzero(regions.labels) == 1
    assert labels.sum() > 700


@settings(max_examples=60, deadline=None)
@given(label_maps, st.integers(1, 30))
def test_no_small_region_is_left(case, min_area):
    height, width, classes, seed = case
    labels = np.random.default_rng(seed).integers(0, classes, (height, width)).astype(np.uint16)
    before = labels.copy()
    merged = merge_small_regions(labels, min_area)
    np.testing.assert_array_equal(labels, before)
    areas = find_regions(merged).areas
    assert len(areas) == 1 or areas.min() >= min_area
    assert set(np.unique(merged)) <= set(np.unique(labels))


def test_a_small_region_joins_the_neighbour_it_touches_most():
    labels = np.array([[1, 1, 1, 1, 1], [1, 1, 3, 2, 2], [2, 2, 2, 2, 2], [2, 2, 2, 2, 2]], np.uint16)
    assert merge_small_regions(labels, 2)[1, 2] == 2  # two sides against one... and one of label 1
    large = np.repeat(np.repeat(labels, 3, axis=0), 3, axis=1)
    np.testing.assert_array_equal(merge_small_regions(large, 9), large)


@pytest.mark.parametrize("strip", [1 << 19, 700])
@pytest.mark.parametrize("size", [(40, 61), (9, 13), (1, 1), (101, 7), (3, 200)])
def test_upsampling_is_bilinear(size, strip, monkeypatch):
    monkeypatch.setattr(refine, "STRIP_PIXELS", strip)
    scores = np.random.default_rng(0).normal(size=(5, 12, 17)).astype(np.float32)
    scores = np.stack([resize_bilinear(resize_bilinear(plane, 4, 5), 12, 17) for plane in scores])
    resized = np.stack([resize_bilinear(plane, *size) for plane in scores])
    best = scores.argmax(axis=0)
    up, down, _ = bilinear_taps(12, size[0])
    left, right, _ = bilinear_taps(17, size[1])
    expected = np.full(size, -np.inf)
    for row, column in np.ndindex(size):
        near = {best[i, j] for i in (up[row], down[row]) for j in (left[column], right[column])}
        expected[row, column] = max(resized[name, row, column] for name in near)
    labels, values = upsample_argmax(scores, size)
    np.testing.assert_allclose(values, expected, atol=1e-5)
    chosen = np.take_along_axis(resized, labels[None].astype(int), axis=0)[0]
    np.testing.assert_allclose(chosen, expected, atol=1e-5)


def scene(photo, classes=6, seed=0):
    """Features of random windows, and where they are to go."""
    random = np.random.default_rng(seed)
    resized = (max(1, photo[0] // 2), max(1, photo[1] // 2))
    windows = plan_windows(*resized, size=32, stride=16)
    features = random.normal(size=(len(windows), 8, 4, 4)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    text = random.normal(size=(classes, 8)).astype(np.float32)
    text /= np.linalg.norm(text, axis=1, keepdims=True)
    size = coarse_size(resized)
    merge = merge_geometry(windows, (4, 4), resized=resized, photo=size, taper=0.5)
    guide = random.integers(0, 256, (*size, 3), dtype=np.uint8)
    return features, text, RefineGeometry(merge=merge, guide=guide, cell=4.0, photo=photo)


def test_scores_of_all_classes_are_those_whose_best_the_merge_keeps():
    features, text, geometry = scene((90, 130))
    labels, best = merge_argmax(features, text, geometry.merge)
    scores = merge_scores(features, text, geometry.merge)
    np.testing.assert_allclose(scores.max(axis=0), best, atol=1e-6)
    assert (scores.argmax(axis=0) == labels).mean() > 0.999


@pytest.mark.parametrize("threshold", [NO_BACKGROUND, 0.3, 5.0])
@pytest.mark.parametrize("photo", [(90, 130), (64, 64), (1, 300), (300, 1), (1, 1)])
def test_no_region_below_the_least_area_is_left(photo, threshold):
    features, text, geometry = scene(photo)
    labels, cosine = refine_argmax(
        features, text, geometry, threshold=threshold, refinement=Refinement(min_area=0.02)
    )
    assert labels.shape == cosine.shape == photo
    shown = np.where(cosine < threshold, 0, labels + 1).astype(np.uint16)
    areas = find_regions(shown).areas
    assert len(areas) == 1 or areas.min() >= 0.02 * shown.size / 2  # upsampling moves an outline a little


def test_an_edge_of_the_photo_becomes_the_outline():
    """The scores change slowly from left to right, the photo at once, away from where they cross."""
    height, width = 64, 64
    guide = np.zeros((height, width, 3), np.uint8)
    guide[:, 35:] = 200
    slope = np.linspace(1, -1, width, dtype=np.float32)
    nodes = np.stack([slope, -slope])[None].reshape(1, 2, 1, width).repeat(height, axis=2)
    axes = (
        MergeAxis(np.eye(height, dtype=np.float32), height),
        MergeAxis(np.eye(width, dtype=np.float32), width),
    )
    geometry = RefineGeometry(merge=MergeGeometry(*axes), guide=guide, cell=8.0, photo=(height, width))
    plain, _ = merge_argmax(nodes, np.eye(2, dtype=np.float32), geometry.merge)
    refined, _ = refine_argmax(
        nodes, np.eye(2, dtype=np.float32), geometry, threshold=NO_BACKGROUND, refinement=Refinement()
    )
    assert (np.diff(plain[32].astype(int)) != 0).nonzero()[0].tolist() == [31]
    assert (np.diff(refined[32].astype(int)) != 0).nonzero()[0].tolist() == [34]


def test_a_whole_photo_is_averaged_with_its_windows():
    windows = [Window(top=0, left=0, height=32, width=32), Window(top=0, left=16, height=32, width=32)]
    random = np.random.default_rng(0)
    features = random.normal(size=(2, 3, 4, 4)).astype(np.float32)
    same = np.full((1, 3, 5, 5), 0.25, np.float32)
    np.testing.assert_allclose(
        blend_whole(features, same, windows, resized=(32, 48)), 0.5 * features + 0.125, atol=1e-6
    )
    # A ramp over the photo is a ramp over each window: columns of nodes are 8 px apart, and begin at 4 px.
    ramp = np.broadcast_to(np.arange(48, dtype=np.float32), (1, 3, 32, 48))
    blended = blend_whole(np.zeros_like(features), ramp, windows, resized=(32, 48))
    np.testing.assert_allclose(blended[0, 0, 0], 0.5 * np.array([3.5, 11.5, 19.5, 27.5]), atol=1e-4)
    np.testing.assert_allclose(blended[1, 0, 0], 0.5 * np.array([19.5, 27.5, 35.5, 43.5]), atol=1e-4)


def test_options_and_bundle_decide_whether_labels_are_refined(shared_bundle, flag):
    plain = Segmenter.load(shared_bundle.path, threads=1)
    assert plain.pipeline.merge.refinement is None
    refined = Segmenter.load(shared_bundle.path, threads=1, refine=True, min_area=0.2)
    assert refined.pipeline.merge.refinement == Refinement(min_area=0.2)
    words = "red, green, blue"
    assert set(np.unique(refined(flag, words).labels)) == {0, 1, 2}
    assert (refined(flag, words).labels == plain(flag, words).labels).mean() > 0.9
    features = refined.encode(flag)
    np.testing.assert_array_equal(refined.segment(features, words).labels, refined(flag, words).labels)
    with pytest.raises(EngineError, match="min_area has no effect"):
        Segmenter.load(shared_bundle.path, min_area=0.2)
    with pytest.raises(OptionError, match="min_area has no effect without refine"):
        Segmenter.load(shared_bundle.path, refine=False, min_area=0.2)
    with pytest.raises(
        OptionError, match="min_area must be a share of the photo in 0..0.5, got 2".replace(".", r"\.")
    ):
        Segmenter.load(shared_bundle.path, refine=True, min_area=2)


@pytest.mark.parametrize("field", [{"radius": 0.0}, {"epsilon": 2.0}, {"min_area": 0.6}])
def test_a_refinement_that_cannot_be(field):
    with pytest.raises(ValueError, match=next(iter(field))):
        dataclasses.replace(Refinement(), **field)


def test_both_looks_at_the_windows_and_at_the_whole(shared_bundle, flag):
    sizes = []
    segmenter = Segmenter.load(shared_bundle.path, inference="both", threads=1)
    real = segmenter.vision.run
    segmenter.vision.run = lambda inputs: sizes.append(inputs["pixels"].shape) or real(inputs)
    result = segmenter(flag, "red, green, blue")
    windows = len(segmenter.pipeline.prepare(flag).windows)
    assert len(sizes) == windows + 1 > 2
    assert set(np.unique(result.labels)) == {0, 1, 2}
