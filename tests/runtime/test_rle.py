"""COCO's run lengths: hand-computed strings, round trips."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ovsdino_runtime.geometry.rle import decode_rle, encode_rle


@pytest.mark.parametrize(
    ("rows", "counts"),
    [
        ([[0, 0], [0, 0]], "4"),  # one run outside
        ([[1, 1], [1, 1]], "04"),  # an empty run outside, then all inside
        ([[0, 1], [0, 1]], "22"),  # runs go down the columns
        ([[0, 1], [1, 0]], "121"),
        ([[1, 0, 1, 0, 1]], "011000"),  # from the fourth run on, differences from the run two before
    ],
)
def test_hand_computed_runs(rows: list[list[int]], counts: str) -> None:
    mask = np.array(rows, bool)
    assert encode_rle(mask) == counts
    np.testing.assert_array_equal(decode_rle(counts, *mask.shape), mask)


def test_a_run_of_many_digits() -> None:
    # 100 = 3 * 32 + 4: low digit 4 with a follower (48 + 4 + 32 = "T"), then 3.
    assert encode_rle(np.zeros((10, 10), bool)) == "T3"


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=60), elements=st.booleans()))
def test_round_trip(mask: np.ndarray) -> None:
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), *mask.shape), mask)


def test_long_runs_take_several_digits() -> None:
    mask = np.zeros((700, 900), bool)
    mask[650:, 1:890] = True
    np.testing.assert_array_equal(decode_rle(encode_rle(mask), 700, 900), mask)


@pytest.mark.parametrize("counts", ["", "T"])
def test_half_a_number_is_refused(counts: str) -> None:
    with pytest.raises(ValueError, match="middle of a number"):
        decode_rle(counts, 10, 10)


def test_runs_of_another_size_are_refused() -> None:
    with pytest.raises(ValueError, match="runs fill 12 px, expected 4x4"):
        decode_rle(encode_rle(np.ones((3, 4), bool)), 4, 4)


def test_pycocotools_writes_the_same():
    """Noise has the most runs, and large regions the largest numbers."""
    coco = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    masks = [random.random((97, 61)) < share for share in (0.5, 0.01, 0.99)]
    masks += [np.zeros((5, 7), np.bool_), np.ones((5, 7), np.bool_), np.ones((1, 1), np.bool_)]
    large = np.zeros((3000, 2000), np.bool_)
    large[1:, 1999] = large[5, 3] = True
    for mask in [*masks, large]:
        expected = coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()
        assert encode_rle(mask) == expected
