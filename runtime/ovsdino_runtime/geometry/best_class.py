"""Find the best of several classes at each pixel."""

import numpy as np

from ovsdino_runtime.geometry.types import Floats, Indices, Labels

STRIP_PIXELS = 1 << 14  # computed at once: their scores stay in the processor's cache


def best_class(scores: Floats) -> tuple[Labels, Floats]:
    """Find the best class of each pixel, of equals the first, and its score.

    Shape: (K, h, w) -> (h, w) each.
    """
    size = scores.shape[1:]
    labels, best = np.zeros(size, np.uint16), np.array(scores[0])
    rows = max(1, STRIP_PIXELS // size[1])
    for top in range(0, size[0], rows):
        strip = slice(top, top + rows)
        keep_best(scores[1:, strip], np.arange(1, len(scores)), labels=labels[strip], best=best[strip])
    return labels, best


def keep_best(scores: Floats, classes: Indices, *, labels: Labels, best: Floats) -> None:
    """Update labels and best scores, in place, where a class scores higher than all before.

    The place of the winner among the classes is the number of running maxima below the last one: counting
    them is faster than an argmax along the first axis, and than writing through masks.

    Args:
        scores: of these classes.
        classes: their labels.
        labels: of each pixel.
        best: score of that label.

    Shape: (n, h, w), (n,), (h, w), (h, w).
    """
    if not len(classes):
        return
    highest = np.empty_like(scores)  # of the classes so far
    before = best
    for plane, result in zip(scores, highest, strict=True):
        before = np.maximum(before, plane, out=result)
    below = np.empty(best.shape, np.bool_)
    place = np.zeros(best.shape, np.uint8 if len(classes) < 255 else np.uint16)  # 1 is the first class
    for maximum in (best, *highest[:-1]):
        np.less(maximum, before, out=below)
        place += below.view(np.uint8)
    np.copyto(labels, np.append(0, classes).astype(np.uint16)[place], where=place > 0)
    best[...] = before
