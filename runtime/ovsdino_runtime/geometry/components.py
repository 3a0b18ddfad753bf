"""Connected components: pixels of one label that touch along an edge."""

import numpy as np

from ovsdino_runtime.geometry.types import Indices, Labels


def connected_components(labels: Labels) -> Indices:
    """Number the components of all labels from 0, in the order of their first pixels.

    Runs of equal labels in a row are linked to the runs that they touch in the row above. Links are followed
    to the smallest number until nothing changes, with path halving (union-find).

    Shape: (H, W) -> (H, W).
    """
    begins = np.ones(labels.shape, np.bool_)  # of a run
    begins[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = begins.ravel().cumsum().reshape(labels.shape) - 1  # (H, W)
    touches = labels[1:] == labels[:-1]
    above, below = runs[:-1][touches], runs[1:][touches]
    parent = np.arange(runs[-1, -1] + 1)
    while True:
        first, second = parent[above], parent[below]
        if not (first != second).any():
            break
        np.minimum.at(parent, np.maximum(first, second), np.minimum(first, second))
        while (parent != (root := parent[parent])).any():
            parent = root
    _, number = np.unique(parent, return_inverse=True)  # roots are first runs: their order is the pixels'
    components: Indices = number.astype(np.intp)[runs]
    return components
