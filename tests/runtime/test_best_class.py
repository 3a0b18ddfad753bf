import numpy as np
import pytest

from ovsdino_runtime.geometry.best_class import best_class, keep_best

SIZE = (150, 130)  # more than one strip


@pytest.mark.parametrize("count", [1, 2, 7, 254, 255, 300])
def test_the_best_class_is_numpys_argmax(count):
    size = SIZE if count < 100 else (5, 6)
    scores = np.random.default_rng(count).integers(0, 9, (count, *size)).astype(np.float32)  # with ties
    labels, best = best_class(scores)
    assert labels.dtype == np.uint16
    np.testing.assert_array_equal(labels, scores.argmax(axis=0))
    np.testing.assert_array_equal(best, scores.max(axis=0))


def test_the_scores_are_not_changed():
    scores = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    before = scores.copy()
    best_class(scores)
    np.testing.assert_array_equal(scores, before)


@pytest.mark.parametrize("count", [1, 3, 300])
def test_an_earlier_class_keeps_its_pixel_unless_it_is_beaten(count):
    random = np.random.default_rng(count)
    scores = random.integers(0, 4, (count, 6, 7)).astype(np.float32)
    best = random.integers(0, 5, (6, 7)).astype(np.float32)
    labels = np.full((6, 7), 1000, np.uint16)
    classes = np.arange(count) * 2 + 5
    expected = np.where(scores.max(axis=0) > best, classes[scores.argmax(axis=0)], labels)
    expected_best = np.maximum(best, scores.max(axis=0))
    keep_best(scores, classes, labels=labels, best=best)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(best, expected_best)


def test_no_class_changes_nothing():
    labels, best = np.full((2, 3), 4, np.uint16), np.zeros((2, 3), np.float32)
    keep_best(np.empty((0, 2, 3), np.float32), np.arange(0), labels=labels, best=best)
    assert (labels == 4).all()
    assert not best.any()
