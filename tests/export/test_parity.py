"""The measure of parity, and what a miss says."""

import numpy as np
import pytest
import torch

from ovsdino_export import parity
from ovsdino_export.parity import THRESHOLDS, ParityError, compare, misses, require, worse
from ovsdino_runtime.bundle.bundle import ParityThresholds


def unit_features(seed, shape=(4, 16, 5, 5)):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


BANK = unit_features(9, (7, 16))
NOTHING = ParityThresholds(0, 0, 0)


def test_figures_equal_a_slow_loop():
    expected = unit_features(0)
    actual = expected + 0.2 * unit_features(1)
    actual /= np.linalg.norm(actual, axis=1, keepdims=True)
    cosines, same = [], []
    for n in range(4):
        for row in range(5):
            for column in range(5):
                a, b = expected[n, :, row, column], actual[n, :, row, column]
                cosines.append(float(a @ b))
                labels = [max(range(7), key=lambda i, v=v: float(BANK[i] @ v)) for v in (a, b)]
                same.append(labels[0] == labels[1])
    found = compare(expected, actual, bank=BANK, thresholds=NOTHING)
    assert found.cosine_mean == pytest.approx(np.mean(cosines), abs=1e-6)
    assert found.cosine_p01 == pytest.approx(np.percentile(cosines, 1), abs=1e-6)
    assert found.label_agreement == pytest.approx(np.mean(same))
    assert (found.finite, found.photos) == (True, 4)
    assert 0 < found.label_agreement < 1, "the case should hold both agreement and difference"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_one_value_that_is_no_number_fails(value):
    actual = unit_features(0)
    actual[1, 2, 3, 4] = value
    found = compare(unit_features(0), actual, bank=BANK, thresholds=NOTHING)
    assert not found.finite
    assert list(misses(found)) == ["some values are infinite or not numbers"]


def test_another_shape_is_refused():
    with pytest.raises(ParityError, match=r"gives \(3, 16, 5, 5\), the torch model \(4, 16, 5, 5\)"):
        compare(unit_features(0), unit_features(0)[:3], bank=BANK, thresholds=NOTHING)


def test_thresholds_are_those_promised():
    assert THRESHOLDS["vision"] == ParityThresholds(0.9999, 0.9999, 0.999)
    assert THRESHOLDS["vision.fp16"] == ParityThresholds(0.999, 0.995, 0.99)


def test_a_miss_is_refused_with_its_figures():
    expected = unit_features(0)
    actual = expected.copy()
    actual[0, :, 0, 0] = -expected[0, :, 0, 0]  # one position of a hundred
    with pytest.raises(ParityError) as refusal:
        require("vision.fp16", compare(expected, actual, bank=BANK, thresholds=THRESHOLDS["vision.fp16"]))
    assert str(refusal.value) == (
        "vision.fp16.onnx differs from the torch model: cosine_mean 0.980000, expected at least 0.999; "
        "cosine_p01 0.980000, expected at least 0.995; export without --fp16"
    )
    require("vision", compare(expected, expected, bank=BANK, thresholds=THRESHOLDS["vision"]))


def test_the_worse_of_two_measurements_counts():
    good = compare(unit_features(0), unit_features(0), bank=BANK, thresholds=NOTHING)
    bad = compare(unit_features(0), unit_features(1), bank=BANK, thresholds=NOTHING)
    assert worse(good, bad) == worse(bad, good) == bad


def test_batches_of_any_size_give_the_same():
    inputs = np.arange(7, dtype=np.float32)[:, None]
    seen = []

    def double(batch):
        seen.append(len(batch))
        return batch * 2

    np.testing.assert_array_equal(parity.in_batches(double, inputs), inputs * 2)
    assert max(seen) <= parity.BATCH


def test_a_pipeline_is_run_without_gradients():
    layer = torch.nn.Linear(2, 2)
    encode = parity.torch_encoder(layer)
    x = np.ones((1, 2), np.float32)
    np.testing.assert_allclose(encode(x), layer(torch.ones(1, 2)).detach().numpy())
