"""Compute radial spectra of feature maps, and the log-ratio of fine to coarse structure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovsdino.analysis.errors import AnalysisError

Doubles = npt.NDArray[np.float64]
CORNER = math.sqrt(0.5)  # [cycles a patch] the highest frequency of a grid, along its diagonal
ON_THE_EDGE = 1e-9  # a radius that rounding put just below its bin's edge belongs to the bin


@dataclass(frozen=True, kw_only=True)
class SpectrumOptions:
    """Options that the paper does not state. The defaults are our reconstruction.

    Raises:
        AnalysisError: a value is invalid.
    """

    bins: int = 16  # rings of equal width between radius 0 and 1
    cutoff: float = 0.5  # r_c: rings whose middle lies beyond it are high frequencies
    centred: bool = False  # leave out frequency 0: take each channel's mean away first

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise AnalysisError(f"bins must be at least 2, got {self.bins}")
        low, high = self.radii[0], self.radii[-1]
        if not low <= self.cutoff < high:
            raise AnalysisError(
                f"cutoff must lie in {low:g}..{high:g}, so that {self.bins} bins have some on either side, "
                f"got {self.cutoff:g}"
            )

    @property
    def radii(self) -> Doubles:
        """Middle radius of each ring; 1 is the corner of the spectrum, 0.707 the end of an axis."""
        middles: Doubles = (np.arange(self.bins) + 0.5) / self.bins
        return middles


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Mean spectra of an encoder's layers over photos."""

    encoder: str
    layers: tuple[int, ...]  # 1-based blocks, K of them
    photos: int
    grid: tuple[int, int]  # rows and columns [patches]
    options: SpectrumOptions
    energy: Doubles  # (K, bins), E_l(r)
    log_ratio: Doubles  # (K,), mean of R_l over the photos
    deviation: Doubles  # (K,), standard deviation of R_l over the photos

    @property
    def shares(self) -> Doubles:
        """Energies of each layer divided by their sum, to compare layers of different norm: (K, bins)."""
        shares: Doubles = self.energy / self.energy.sum(axis=1, keepdims=True)
        return shares


def find_rings(height: int, width: int, bins: int) -> Tensor:
    """Return the ring index of each frequency of a grid, in the order of ``torch.fft.fft2``.

    Shape: -> (height, width), in 0..bins-1.

    Raises:
        AnalysisError: a ring contains no frequency, because the grid is too small.
    """
    rows = torch.fft.fftfreq(height, dtype=torch.float64)  # [cycles a patch], -0.5..0.5
    columns = torch.fft.fftfreq(width, dtype=torch.float64)
    radius = torch.hypot(rows[:, None], columns[None]) / CORNER  # (height, width) in 0..1
    rings = (radius * bins + ON_THE_EDGE).long().clamp(max=bins - 1)
    empty = int((rings.flatten().bincount(minlength=bins) == 0).sum())
    if empty:
        raise AnalysisError(
            f"{empty} of {bins} bins hold no frequency of a {height}x{width} grid; take fewer bins"
        )
    return rings


def radial_energy(features: Tensor, bins: int, *, centred: bool = False) -> Tensor:
    """Average a feature map's power spectrum over channels, then over rings.

    ``F(u, v) = sum_xy f(x, y) exp(-2 pi i (u x / w + v y / h))``, ``P = mean_c |F|^2``,
    ``E(r) = mean of P over the ring r``.

    Source: OVS-DINO, eq. 3 to 5; the radius is normalised by the spectrum's corner (our reconstruction).

    Args:
        features: one layer's output.
        bins: rings between radius 0 and 1.
        centred: subtract each channel's mean first.

    Shape: (B, C, h, w) -> (B, bins).

    Raises:
        AnalysisError: as `find_rings`.
    """
    height, width = features.shape[-2:]
    rings = find_rings(height, width, bins).flatten().to(features.device)  # (h * w,)
    features = features.float()
    if centred:
        features = features - features.mean((-2, -1), keepdim=True)
    power = torch.fft.fft2(features).abs().square().mean(1).flatten(1)  # (B, h * w)
    sums = power.new_zeros(len(power), bins).index_add_(1, rings, power)  # (B, bins)
    mean: Tensor = sums / rings.bincount(minlength=bins)
    return mean


def log_ratio(energy: Tensor, cutoff: float) -> Tensor:
    """Compare fine with coarse structure: ``R = log(sum_{r > r_c} E(r) / sum_{r <= r_c} E(r))``.

    Source: OVS-DINO, eq. 6; the cut-off is our reconstruction.

    Args:
        energy: energies of rings of equal width between radius 0 and 1.
        cutoff: r_c, compared with the middle of a ring.

    Shape: (..., bins) -> (...).
    """
    bins = energy.shape[-1]
    high = (torch.arange(bins, device=energy.device) + 0.5) / bins > cutoff  # (bins,)
    return (energy[..., high].sum(-1) / energy[..., ~high].sum(-1)).log()


class SpectrumMean:
    """Accumulate spectra photo by photo, in bounded memory.

    Args:
        layers: number of maps per photo.
        options: rings and cut-off.
    """

    def __init__(self, layers: int, options: SpectrumOptions) -> None:
        self._options = options
        # Energies, ratio, ratio squared of each layer; photos, rows and columns of the grid.
        self._sums = torch.zeros(layers, options.bins + 2, dtype=torch.float64)
        self._about = torch.zeros(3, dtype=torch.int64)

    def add(self, maps: Sequence[Tensor]) -> None:
        """Add a batch: for each layer one map (B, C, h, w)."""
        options = self._options
        for sums, features in zip(self._sums, maps, strict=True):
            energy = radial_energy(features, options.bins, centred=options.centred).double()  # (B, bins)
            ratio = log_ratio(energy, options.cutoff)[:, None]  # (B, 1)
            sums.add_(torch.cat([energy, ratio, ratio.square()], dim=1).sum(0).cpu())
        photos = int(self._about[0]) + len(maps[0])
        self._about = torch.tensor([photos, *maps[0].shape[-2:]])

    def tensors(self) -> dict[str, Tensor]:
        """Return the state as tensors."""
        return {"sums": self._sums, "about": self._about}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore the state that `tensors` returned."""
        self._sums, self._about = tensors["sums"], tensors["about"]

    def result(self, encoder: str, layers: tuple[int, ...]) -> Spectrum:
        """Return the means over all added photos."""
        photos, rows, columns = self._about.tolist()
        means = self._sums.numpy() / photos
        energy, ratio, squares = means[:, :-2], means[:, -2], means[:, -1]
        deviation = np.sqrt(np.maximum(squares - ratio**2, 0))
        return Spectrum(
            encoder=encoder,
            layers=layers,
            photos=photos,
            grid=(rows, columns),
            options=self._options,
            energy=energy,
            log_ratio=ratio,
            deviation=deviation,
        )
