"""mIoU, pixel accuracy and Boundary IoU, computed from integer counts, which add up exactly in any order."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Truth

Counted = npt.NDArray[np.int64]
IGNORED = -1
DILATION = 0.02  # width of the boundary band, as a share of the photo's diagonal


@dataclass(frozen=True, eq=False)
class Counts:
    """Pixel counts. They are integers, so sums over photos do not depend on how the photos are split."""

    confusion: Counted  # (N, N): truth, prediction
    boundary: Counted  # (N, 3): pixels in the boundary of the truth, of the prediction, of both

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.confusion + other.confusion, self.boundary + other.boundary)

    @classmethod
    def zero(cls, classes: int) -> "Counts":
        """Return empty counts."""
        return cls(np.zeros((classes, classes), np.int64), np.zeros((classes, 3), np.int64))


@dataclass(frozen=True)
class Scores:
    """Metrics in 0..1; a class' value is None if it is undefined."""

    miou: float  # mean over the classes that the truth holds
    miou_all: float  # mean over the classes that the truth or the prediction holds: mmseg's rule
    boundary_miou: float  # mean over the classes that the truth holds
    pixel_accuracy: float
    iou: tuple[float | None, ...]
    boundary_iou: tuple[float | None, ...]


def count(truth: Truth, prediction: npt.NDArray[Any], classes: int) -> Counts:
    """Compare the predicted labels of a photo with its ground truth.

    Pixels without truth are not counted. For boundaries they take the predicted label, so that the edge of an
    unlabelled region does not count as an edge of the adjacent object.

    Shape: (H, W), (H, W).
    """
    known = truth != IGNORED
    prediction = prediction.astype(np.int32)
    pairs = truth[known].astype(np.int64) * classes + prediction[known]
    confusion = np.bincount(pairs, minlength=classes**2).reshape(classes, classes)
    filled = np.where(known, truth, prediction)
    width = boundary_width(*truth.shape)
    edge_of_truth = boundary(filled, width) & known
    edge_of_prediction = boundary(prediction, width) & known
    both = edge_of_truth & edge_of_prediction & (truth == prediction)
    per_class = [
        np.bincount(labels[edge], minlength=classes)
        for labels, edge in ((truth, edge_of_truth), (prediction, edge_of_prediction), (truth, both))
    ]
    return Counts(confusion, np.stack(per_class, axis=1))


def boundary_width(height: int, width: int) -> int:
    """Return the width of the boundary band inside a class' outline [px]."""
    return max(1, round(DILATION * float(np.hypot(height, width))))


def boundary(labels: npt.NDArray[np.int32], width: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels that are at most ``width`` steps from another class or from the edge of the photo.

    For each class these are the pixels that ``width`` erosions by a 3x3 square remove: those whose square of
    side 2 * width + 1 holds several classes. A square holds a single class if no two adjacent pixels in it
    differ; summed-area tables count the differences for all classes at once.

    Source: B. Cheng et al., "Boundary IoU", CVPR 2021; github.com/bowenc0221/boundary-iou-api.

    Shape: (H, W).
    """
    padded = np.pad(labels, 1, constant_values=-9)  # beyond the photo there is no class
    inner = np.ones(labels.shape, np.bool_)
    for axis in (0, 1):
        differs = np.diff(padded, axis=axis) != 0
        changes = np.cumsum(np.cumsum(np.pad(differs, ((1, 0), (1, 0))), axis=0, dtype=np.int32), axis=1)
        rows, columns = (
            _span(length, width, limit, along=axis == side)
            for side, (length, limit) in enumerate(zip(labels.shape, differs.shape, strict=True))
        )
        upper, lower = changes[rows[0]], changes[rows[1]]
        inner &= (lower[:, columns[1]] - lower[:, columns[0]]) == (
            upper[:, columns[1]] - upper[:, columns[0]]
        )
    return ~inner


def scores(counts: Counts) -> Scores:
    """Compute the metrics from counts."""
    hits = np.diag(counts.confusion)
    truth, predicted = counts.confusion.sum(axis=1), counts.confusion.sum(axis=0)
    union = truth + predicted - hits
    iou = np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)
    edges, edges_predicted, edges_both = counts.boundary.T
    edge_union = edges + edges_predicted - edges_both
    edge_iou = np.divide(edges_both, edge_union, out=np.full(len(hits), np.nan), where=edge_union > 0)
    return Scores(
        miou=_mean(iou[truth > 0]),
        miou_all=_mean(iou[union > 0]),
        boundary_miou=_mean(edge_iou[edges > 0]),
        pixel_accuracy=float(hits.sum() / max(1, truth.sum())),
        iou=_known(iou),
        boundary_iou=_known(edge_iou),
    )


def _span(
    length: int, width: int, limit: int, *, along: bool
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Return the first and last-plus-one index into the running sums, for each pixel along one axis.

    Differences lie between padded pixels: difference i along its axis lies between pixels i - 1 and i.
    """
    pixels = np.arange(length)
    first, last = pixels - width + 1, pixels + width + (1 if along else 2)
    return first.clip(0, limit), last.clip(0, limit)


def _mean(shares: npt.NDArray[np.float64]) -> float:
    return float(shares.mean()) if len(shares) else 0.0


def _known(shares: npt.NDArray[np.float64]) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(share) else float(share) for share in shares)
