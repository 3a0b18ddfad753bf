import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovsdino_runtime.geometry import merge
from ovsdino_runtime.geometry.merge import Band, MergeAxis, MergeGeometry, merge_argmax, merge_geometry
from ovsdino_runtime.geometry.preprocess import bilinear_taps, fit_size, resize_bilinear
from ovsdino_runtime.geometry.windows import plan_windows


def slow_weights(length, taper):
    """Weigh the pixels of a window's side one by one."""
    if taper is None:
        return np.ones(length)
    return np.array([min(1, (min(i, length - 1 - i) + 0.5) / (taper * length)) for i in range(length)])


def slow_scores(features, text, windows, resized, photo, taper=None):
    """Upsample every window, weigh, add, divide, resize: the definition. Shape: -> (H, W, N)."""
    total = np.zeros((*resized, len(text)), np.float64)
    count = np.zeros((*resized, 1))
    for feature, window in zip(features, windows, strict=True):
        cosine = np.einsum("dhw,nd->hwn", feature, text)
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        weights = np.outer(slow_weights(window.height, taper), slow_weights(window.width, taper))[:, :, None]
        total[rows, columns] += weights * resize_bilinear(cosine, window.height, window.width)
        count[rows, columns] += weights
    return resize_bilinear((total / count).astype(np.float32), *photo)


def unit(array, axis):
    return (array / np.linalg.norm(array, axis=axis, keepdims=True)).astype(np.float32)


def scene(photo, classes, *, size=32, stride=16, grid=(5, 5), short=32, width=8, seed=0):
    random = np.random.default_rng(seed)
    resized = fit_size(*photo, short_side=short, long_side=6 * short)
    windows = plan_windows(*resized, size=size, stride=stride)
    features = unit(random.normal(size=(len(windows), width, *grid)), 1)
    text = unit(random.normal(size=(classes, width)), 1)
    return features, text, windows, resized


def check(photo, classes, taper=None, **options):
    features, text, windows, resized = scene(photo, classes, **options)
    geometry = merge_geometry(windows, features.shape[2:], resized=resized, photo=photo, taper=taper)
    labels, best = merge_argmax(features, text, geometry)
    expected = slow_scores(features, text, windows, resized, photo, taper)
    assert labels.shape == best.shape == photo
    assert labels.dtype == np.uint16
    # float32 sums in another order
    np.testing.assert_allclose(best, expected.max(axis=2), atol=3e-6, rtol=0)
    chosen = np.take_along_axis(expected, labels[:, :, None].astype(int), axis=2)[:, :, 0]
    np.testing.assert_allclose(chosen, expected.max(axis=2), atol=3e-6, rtol=0)
    assert (labels == expected.argmax(axis=2)).mean() > 0.999


@pytest.mark.parametrize(
    "photo",
    [
        (32, 32),  # one window, nothing to resize
        (60, 97),  # odd, several windows
        (97, 60),
        (200, 31),  # upright, enlarged
        (7, 150),  # narrow: windows are stretched
        (1, 1),
        (150, 1),
        (311, 533),  # much larger than the grid
        (21, 333),  # many windows
    ],
)
def test_merge_equals_the_slow_loop(photo):
    check(photo, 7)


@pytest.mark.parametrize("grid", [(1, 1), (3, 9), (28, 28), (64, 64)])
def test_any_grid(grid):
    check((45, 77), 5, grid=grid)


@pytest.mark.parametrize("stride", [1, 5, 31, 32])
def test_any_stride(stride):
    check((40, 60), 4, stride=stride, short=34)


@pytest.mark.parametrize("taper", [0.01, 0.3, 0.5])
@pytest.mark.parametrize("photo", [(60, 97), (7, 150), (311, 533), (1, 1)])
def test_tapered_windows_are_a_weighted_average(photo, taper):
    check(photo, 7, taper=taper, stride=13)


def test_a_taper_hides_the_edge_of_a_window():
    """Two windows that disagree: without a taper the scores jump where one ends, with it they slide."""
    windows = plan_windows(32, 48, size=32, stride=16)
    features = np.zeros((2, 1, 1, 1), np.float32)
    features[1] = 1
    jumps = []
    for taper in (None, 0.5):
        geometry = merge_geometry(windows, (1, 1), resized=(32, 48), photo=(32, 48), taper=taper)
        scores = merge_argmax(features, np.ones((1, 1), np.float32), geometry)[1]
        jumps.append(np.abs(np.diff(scores[16])).max())
    assert jumps[0] == 0.5
    assert jumps[1] < 0.07


def test_windows_in_both_directions():
    check((90, 130), 6, short=80)


@settings(max_examples=25, deadline=None)
@given(
    height=st.integers(1, 130), width=st.integers(1, 130), classes=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_merge_equals_the_slow_loop_at_any_size(height, width, classes, seed):
    check((height, width), classes, seed=seed)


def test_classes_in_several_portions(monkeypatch):
    monkeypatch.setattr(merge, "MOSAIC_BYTES", 4 * 25 * 3)  # three classes at a time
    monkeypatch.setattr(merge, "TILE_SCORES", 64)
    check((60, 97), 50)
    check((33, 32), 1)


def test_the_first_of_equal_classes_wins(monkeypatch):
    monkeypatch.setattr(merge, "MOSAIC_BYTES", 4 * 25 * 2)
    features, text, windows, resized = scene((40, 40), 4)
    text = np.concatenate([text, text, text])
    geometry = merge_geometry(windows, (5, 5), resized=resized, photo=(40, 40))
    assert merge_argmax(features, text, geometry)[0].max() < 4


def test_the_matrices_average():
    _, _, windows, resized = scene((61, 97), 1)
    geometry = merge_geometry(windows, (5, 5), resized=resized, photo=(61, 97))
    for axis in (geometry.rows, geometry.columns):
        matrix = axis.weights(0, axis.length)
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)


class HeldAxis(MergeAxis):
    """The plain merge: the whole matrix at once, cut into bands."""

    def bands(self, step):
        low, high, blend = bilinear_taps(len(self.merged), self.length)
        matrix = self.merged[low] * (1 - blend[:, None]) + self.merged[high] * blend[:, None]
        for start in range(0, self.length, step):
            block = matrix[start : start + step]
            nodes = np.flatnonzero(block.any(axis=0))
            weights = np.ascontiguousarray(block[:, nodes])
            yield Band(slice(start, start + len(block)), nodes, weights)


@pytest.mark.parametrize("taper", [None, 0.5])
@pytest.mark.parametrize("photo", [(60, 97), (3000, 2), (1, 5000), (400, 300), (1, 1), (9000, 40)])
def test_strips_are_exactly_the_plain_merge(photo, taper):
    features, text, windows, resized = scene(photo, 11, size=448, stride=224, grid=(28, 28), short=448)
    geometry = merge_geometry(windows, (28, 28), resized=resized, photo=photo, taper=taper)
    axes = (HeldAxis(axis.merged, axis.length) for axis in (geometry.rows, geometry.columns))
    for strips, plain in zip(
        merge_argmax(features, text, geometry),
        merge_argmax(features, text, MergeGeometry(*axes)),
        strict=True,
    ):
        np.testing.assert_array_equal(strips, plain)


@pytest.mark.parametrize("photo", [(25_000_000, 1), (1, 30_000), (100_000, 250), (250, 100_000)])
def test_memory_grows_with_the_pixels_alone(photo):
    """A photo of 25 megapixels in one column once took 24 GB: its pixels times the nodes along it."""
    resized = fit_size(*photo, short_side=448, long_side=2048)
    windows = plan_windows(*resized, size=448, stride=224)
    random = np.random.default_rng(0)
    features = unit(random.normal(size=(len(windows), 4, 28, 28)), 1)
    text = unit(random.normal(size=(3, 4)), 1)
    tracemalloc.start()
    geometry = merge_geometry(windows, (28, 28), resized=resized, photo=photo, taper=0.5)
    labels, scores = merge_argmax(features, text, geometry)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.isfinite(scores).all()
    assert set(np.unique(labels)) <= {0, 1, 2}
    assert peak < 6 * photo[0] * photo[1] + 40e6  # [bytes] labels and scores, and what a tile needs


def test_memory_does_not_grow_with_the_classes():
    def peak(classes):
        features, text, windows, resized = scene(
            (120, 160), classes, size=448, stride=224, grid=(28, 28), short=448, width=16
        )
        geometry = merge_geometry(windows, (28, 28), resized=resized, photo=(120, 160))
        tracemalloc.start()
        merge_argmax(features, text, geometry)
        size = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return size

    few, many = peak(1500), peak(6000)
    assert few < 25e6  # [bytes] with at most 8 MiB of scores at once
    assert many < 1.1 * few
