"""Confusion matrix and mIoU against torchmetrics, Boundary IoU against loops over distances."""

import numpy as np
import pytest
import torch
from torchmetrics.classification import MulticlassConfusionMatrix, MulticlassJaccardIndex

from ovsdino_benchmarks.datasets.label_values import IGNORED
from ovsdino_runtime.geometry.metrics import Counts, boundary, boundary_width, count, scores

CLASSES = 6


def photos(seed, number=3, blocks=5):
    random = np.random.default_rng(seed)
    for _ in range(number):
        truth = (
            random.integers(-1, CLASSES - 1, (blocks, blocks + 1)).repeat(7, 0).repeat(9, 1).astype(np.int32)
        )
        noise = random.integers(0, CLASSES, truth.shape)
        prediction = np.where(random.random(truth.shape) < 0.3, noise, np.maximum(truth, 0))
        yield truth, prediction.astype(np.uint16)


def total(pairs):
    return sum((count(truth, prediction, CLASSES) for truth, prediction in pairs), Counts.zero(CLASSES))


def test_confusion_and_iou_are_those_of_torchmetrics():
    pairs = list(photos(0))
    counts = total(pairs)
    truth = torch.cat([torch.from_numpy(truth).flatten() for truth, _ in pairs])
    prediction = torch.cat(
        [torch.from_numpy(prediction.astype(np.int64)).flatten() for _, prediction in pairs]
    )
    confusion = MulticlassConfusionMatrix(CLASSES, ignore_index=IGNORED)(prediction, truth)
    np.testing.assert_array_equal(counts.confusion, confusion.numpy())
    iou = MulticlassJaccardIndex(CLASSES, average="none", ignore_index=IGNORED)(prediction, truth)
    np.testing.assert_allclose(scores(counts).iou, iou.numpy(), rtol=1e-6)
    macro = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=IGNORED)(prediction, truth)
    assert scores(counts).miou_all == pytest.approx(macro.item(), rel=1e-6)


def test_the_mean_is_over_the_classes_of_the_truth():
    """The last class is predicted and never true: mmseg's rule counts it as 0, ours leaves it out."""
    result = scores(total(photos(1)))
    assert result.iou[-1] == 0
    assert result.miou == pytest.approx(np.mean(result.iou[:-1]))
    assert result.miou_all == pytest.approx(np.mean(result.iou))


def test_a_class_that_is_nowhere_has_no_score():
    one = np.zeros((20, 20), np.int32)
    result = scores(count(one, one, 2))
    assert result.iou == (1.0, None)
    assert result.boundary_iou == (1.0, None)
    assert (result.miou, result.miou_all, result.boundary_miou, result.pixel_accuracy) == (1, 1, 1, 1)


def slow_boundary(labels, width):
    """Pixels within `width` steps, diagonal ones too, of another class or of the photo's outside."""
    edge = np.zeros(labels.shape, bool)
    for y, x in np.ndindex(labels.shape):
        for dy in range(-width, width + 1):
            for dx in range(-width, width + 1):
                inside = 0 <= y + dy < labels.shape[0] and 0 <= x + dx < labels.shape[1]
                edge[y, x] |= not inside or labels[y + dy, x + dx] != labels[y, x]
    return edge


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("shape", [(4, 5), (1, 1), (7, 2)])
def test_boundary_is_that_of_a_loop_over_distances(shape, width):
    labels = np.random.default_rng(width).integers(0, 3, shape).repeat(4, 0).repeat(3, 1).astype(np.int32)
    np.testing.assert_array_equal(boundary(labels, width), slow_boundary(labels, width))


def test_boundary_iou_is_that_of_each_class_by_itself():
    """Erode each class's mask alone, as the authors' code does, and compare."""
    pairs = [(truth, prediction) for truth, prediction in photos(2, blocks=3) if (truth != IGNORED).any()]
    expected = np.zeros((CLASSES, 3), np.int64)
    for truth, prediction in pairs:
        known = truth != IGNORED
        filled = np.where(known, truth, prediction)
        width = boundary_width(*truth.shape)
        for label in range(CLASSES):
            true, predicted = filled == label, prediction == label
            edge = true & slow_boundary(true, width) & known
            found = predicted & slow_boundary(predicted, width) & known
            expected[label] += edge.sum(), found.sum(), (edge & found).sum()
    counts = total(pairs)
    np.testing.assert_array_equal(counts.boundary, expected)
    union = expected[:, 0] + expected[:, 1] - expected[:, 2]
    np.testing.assert_allclose(scores(counts).boundary_iou, expected[:, 2] / union)


def test_boundary_width_is_two_percent_of_the_diagonal():
    assert boundary_width(300, 400) == 10
    assert boundary_width(10, 10) == 1


def test_an_unlabelled_region_has_no_edge_of_its_own():
    truth = np.zeros((40, 40), np.int32)
    truth[10:20, 10:20] = IGNORED
    result = scores(count(truth, np.zeros((40, 40), np.uint16), 2))
    assert result.boundary_miou == 1
