import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovsdino_runtime.geometry import merge
from ovsdino_runtime.geometry.merge import merge_argmax, merge_geometry
from ovsdino_runtime.geometry.preprocess import fit_size, resize_bilinear
from ovsdino_runtime.geometry.windows import plan_windows


def slow_scores(features, text, windows, resized, photo):
    """Upsample every window, add, divide by how many overlap, resize: the definition. Shape: -> (H, W, N)."""
    total = np.zeros((*resized, len(text)), np.float64)
    count = np.zeros((*resized, 1))
    for feature, window in zip(features, windows, strict=True):
        cosine = np.einsum("dhw,nd->hwn", feature, text)
        rows = slice(window.top, window.top + window.height)
        columns = slice(window.left, window.left + window.width)
        total[rows, columns] += resize_bilinear(cosine, window.height, window.width)
        count[rows, columns] += 1
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


def check(photo, classes, **options):
    features, text, windows, resized = scene(photo, classes, **options)
    geometry = merge_geometry(windows, features.shape[2:], resized=resized, photo=photo)
    labels, best = merge_argmax(features, text, geometry)
    expected = slow_scores(features, text, windows, resized, photo)
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
    for matrix in (geometry.rows, geometry.columns):
        assert matrix.min() >= 0
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-5)


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
