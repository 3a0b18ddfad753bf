"""Linear centred kernel alignment (CKA) between layers of two encoders, in one pass over the photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovsdino.analysis.spectrum import Doubles


@dataclass(frozen=True, eq=False)
class Similarity:
    """Linear CKA between layers of two encoders."""

    first: str
    second: str
    first_layers: tuple[int, ...]  # 1-based blocks
    second_layers: tuple[int, ...]
    photos: int
    examples: int  # n, the places of all photos
    cka: Doubles  # (K1, K2) in 0..1, NaN where a layer is constant
    chance: Doubles  # (K1, K2), what independent white noise of the same shapes gives


class LinearCKA:
    """Accumulate means and (cross-)covariances of features batch by batch, for linear CKA.

    ``CKA = ||Y'X||^2 / (||X'X|| ||Y'Y||)`` with centred X (n, p), Y (n, q) and Frobenius norms. This is
    HSIC with linear kernels in its feature-covariance form: equal to that on n x n Gram matrices, but of
    p x p, q x q and p x q numbers for any n. Batches are merged about their own means (Chan et al. 1979) in
    FP64, because plain sums of squares lose digits where a mean is large.

    Source: OVS-DINO's comparison of DINO with SAM; Kornblith et al. 2019, section 3.
    """

    def __init__(self) -> None:
        self.count = 0  # n
        self._means: list[Tensor] = []  # of all layers, the first encoder's first
        self._products: dict[tuple[int, int], Tensor] = {}  # (layer, layer): (p, q) sums about the means
        self._split = 0

    def add(self, first: Sequence[Tensor], second: Sequence[Tensor]) -> None:
        """Add n examples: row i of every matrix belongs to the same position of the same photo.

        Shape: for each layer of the first encoder (n, p), of the second (n, q).
        """
        layers = [*first, *second]
        count = len(layers[0])
        if not self._means:
            self._split = len(first)
            self._means = [layer.new_zeros(layer.shape[1], dtype=torch.float64) for layer in layers]
            self._products = {
                (i, j): layers[i].new_zeros(layers[i].shape[1], layers[j].shape[1], dtype=torch.float64)
                for i, j in self._pairs(len(layers))
            }
        self._means = [mean.to(layer.device) for mean, layer in zip(self._means, layers, strict=True)]
        self._products = {pair: total.to(layers[0].device) for pair, total in self._products.items()}
        means = [layer.double().mean(0) for layer in layers]
        centred = [(layer - mean).float() for layer, mean in zip(layers, means, strict=True)]
        steps = [mean - old for mean, old in zip(means, self._means, strict=True)]
        weight = count * self.count / (count + self.count)
        for (i, j), total in self._products.items():
            total.add_((centred[i].T @ centred[j]).double() + weight * torch.outer(steps[i], steps[j]))
        self.count += count
        for old, step in zip(self._means, steps, strict=True):
            old.add_(step * (count / self.count))

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        about = torch.tensor([self.count, self._split])
        means = {f"mean.{i}": mean for i, mean in enumerate(self._means)}
        return {"about": about, **means, **{f"product.{i}.{j}": p for (i, j), p in self._products.items()}}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self.count, self._split = tensors["about"].tolist()
        layers = sum(name.startswith("mean.") for name in tensors)
        self._means = [tensors[f"mean.{i}"] for i in range(layers)]
        self._products = {(i, j): tensors[f"product.{i}.{j}"] for i, j in self._pairs(layers)}

    def _pairs(self, layers: int) -> list[tuple[int, int]]:
        own = [(i, i) for i in range(layers)]
        return [*own, *((i, j) for i in range(self._split) for j in range(self._split, layers))]

    def result(self) -> Doubles:
        """Return CKA of every layer of the first encoder with every layer of the second: (K1, K2)."""
        squares = {pair: float(total.square().sum()) for pair, total in self._products.items()}
        own = np.sqrt([squares[i, i] for i in range(len(self._means))])
        cross = [
            [squares[i, j] for j in range(self._split, len(own))] for i in range(self._split)
        ]  # (K1, K2)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a layer is constant
            ratio: Doubles = np.array(cross) / np.outer(own[: self._split], own[self._split :])
        return ratio

    def chance(self) -> Doubles:
        """Return the expected CKA of independent white noise with these widths and examples: (K1, K2).

        ``sqrt(p q) / sqrt((n + p)(n + q))``, from the expected norms. Plain CKA is biased upwards unless the
        widths are small against n. Real features have fewer free directions than columns: their bias is
        smaller.
        """
        share = np.array([len(mean) / (self.count + len(mean)) for mean in self._means])
        return np.sqrt(np.outer(share[: self._split], share[self._split :]))


def to_examples(maps: Sequence[Tensor], grid: tuple[int, int]) -> list[Tensor]:
    """Average maps over the cells of a grid and make every cell an example.

    Shape: (B, C, h, w) each -> (B * rows * columns, C) each.
    """
    pooled = [F.adaptive_avg_pool2d(features.float(), grid) for features in maps]
    return [features.permute(0, 2, 3, 1).flatten(0, 2) for features in pooled]


def coarser_grid(first: Tensor, second: Tensor) -> tuple[int, int]:
    """Return rows and columns of the coarser of two maps (B, C, h, w), each side by itself."""
    return min(first.shape[-2], second.shape[-2]), min(first.shape[-1], second.shape[-1])
