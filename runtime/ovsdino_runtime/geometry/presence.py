"""Find the classes that occur in a photo: those that reach a confidence at some pixel."""

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.geometry.types import Floats

CLASSES_AT_ONCE = 512  # classes per step; bounds the memory of their cosines


def present_classes(features: Floats, text: Floats, threshold: float) -> npt.NDArray[np.intp]:
    """Return the classes whose best node reaches the threshold; if none does, only the best class.

    Source: MaskCLIP's prompt denoising (Zhou et al., "Extract Free Dense Labels from CLIP", 2022).

    Args:
        features: unit vectors at the nodes of each window.
        text: unit vector of each class.
        threshold: least cosine between a class and its best node.

    Shape: (B, D, h, w), (N, D) -> (P,) in 0..N-1, ascending, at least one.
    """
    nodes = np.moveaxis(features, 1, 0).reshape(features.shape[1], -1)  # (D, B * h * w)
    best = np.concatenate(
        [
            (text[first : first + CLASSES_AT_ONCE] @ nodes).max(axis=1)
            for first in range(0, len(text), CLASSES_AT_ONCE)
        ]
    )
    present = np.flatnonzero(best >= threshold)
    return present if len(present) else np.array([best.argmax()])
