import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovsdino_runtime.geometry.windows import Window, WindowPolicy, plan_windows


def slow_plan(height, width, size, stride):
    """mmsegmentation's `slide_inference`, as it is written there."""
    h_grids = max(height - size + stride - 1, 0) // stride + 1
    w_grids = max(width - size + stride - 1, 0) // stride + 1
    boxes = []
    for h_index in range(h_grids):
        for w_index in range(w_grids):
            y2, x2 = min(h_index * stride + size, height), min(w_index * stride + size, width)
            y1, x1 = max(y2 - size, 0), max(x2 - size, 0)
            boxes.append(Window(top=y1, left=x1, height=y2 - y1, width=x2 - x1))
    return boxes


sides = st.integers(1, 1500)


@settings(deadline=None)
@given(height=sides, width=sides, size=st.integers(50, 500), data=st.data())
def test_windows_are_those_of_mmsegmentation(height, width, size, data):
    stride = data.draw(st.integers(max(1, size // 8), size))
    assert plan_windows(height, width, size=size, stride=stride) == slow_plan(height, width, size, stride)


@settings(deadline=None)
@given(height=st.integers(1, 200), width=st.integers(1, 200), size=st.integers(1, 80), data=st.data())
def test_every_pixel_is_covered_and_no_window_leaves_the_photo(height, width, size, data):
    stride = data.draw(st.integers(max(1, size // 4), size))
    windows = plan_windows(height, width, size=size, stride=stride)
    covered = np.zeros((height, width), int)
    for window in windows:
        assert 0 <= window.top <= window.top + window.height <= height
        assert 0 <= window.left <= window.left + window.width <= width
        assert (window.height, window.width) == (min(size, height), min(size, width))
        covered[window.top : window.top + window.height, window.left : window.left + window.width] += 1
    assert covered.min() >= 1
    assert [(w.top, w.left) for w in windows] == sorted({(w.top, w.left) for w in windows})


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((448, 448), [(0, 0)]),
        ((448, 597), [(0, 0), (0, 149)]),
        ((448, 672), [(0, 0), (0, 224)]),
        ((448, 673), [(0, 0), (0, 224), (0, 225)]),
        ((300, 2048), [(0, x) for x in (0, 224, 448, 672, 896, 1120, 1344, 1568, 1600)]),
    ],
)
def test_known_plans(size, expected):
    assert [(w.top, w.left) for w in plan_windows(*size, size=448, stride=224)] == expected


@pytest.mark.parametrize("stride", [0, -1, 449])
def test_a_stride_that_leaves_gaps_is_refused(stride):
    with pytest.raises(ValueError, match=rf"stride must be in 1\.\.448 .* got {stride}"):
        plan_windows(500, 500, size=448, stride=stride)
    with pytest.raises(ValueError, match="stride must be in"):
        WindowPolicy(448, stride)


def test_an_empty_photo_is_refused():
    with pytest.raises(ValueError, match="at least 1x1 px, got 0x5"):
        plan_windows(0, 5, size=4, stride=4)
