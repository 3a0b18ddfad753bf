"""Targets of the structure-aware encoder: the photo's own edges, and SAM's features on another grid."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.targets.structure_target import (
    ORIENTATIONS,
    TargetError,
    orientation_energy,
    structure_target,
)


def stripes(angle: float, size: int = 64, period: float = 12.0) -> torch.Tensor:
    """A wave whose gradient points along ``angle`` [rad], y down."""
    y, x = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    wave = torch.sin(2 * math.pi / period * (x * math.cos(angle) + y * math.sin(angle)))
    return wave.expand(1, 3, -1, -1)


@pytest.mark.parametrize("bin_", range(ORIENTATIONS))
def test_edges_vote_for_their_own_direction(bin_):
    energy = orientation_energy(stripes(bin_ * math.pi / ORIENTATIONS), (4, 4))[0]  # (O, 4, 4)
    inner = energy[:, 1:3, 1:3].flatten(1)
    assert (inner.argmax(0) == bin_).all()
    assert (inner[bin_] > 0.8 * inner.sum(0)).all()


def test_an_edge_between_two_directions_votes_for_both():
    between = orientation_energy(stripes(0.5 * math.pi / ORIENTATIONS), (4, 4))[0][:, 1:3, 1:3].mean((1, 2))
    assert sorted(between.topk(2).indices.tolist()) == [0, 1]
    assert float(between[0] / between[1]) == pytest.approx(1, abs=0.15)


def test_contrast_and_brightness_do_not_matter_but_flatness_does():
    photo = stripes(0.4) + 0.1 * torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    energy = orientation_energy(photo, (8, 8))
    torch.testing.assert_close(orientation_energy(0.4 * photo + 2, (8, 8)), energy, rtol=0.02, atol=0.01)
    assert float(orientation_energy(torch.full((1, 3, 64, 64), 0.3), (8, 8)).abs().max()) == 0


def test_the_energy_of_a_cell_equals_a_loop():
    photo = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    cells = torch.zeros(ORIENTATIONS, 4, 4)
    for y in range(16):
        for x in range(16):
            best = (-1.0, 0.0)
            for c in range(3):
                dx = float(photo[0, c, y, min(x + 1, 15)] - photo[0, c, y, max(x - 1, 0)]) / 2
                dy = float(photo[0, c, min(y + 1, 15), x] - photo[0, c, max(y - 1, 0), x]) / 2
                best = max(best, (math.hypot(dx, dy), math.atan2(dy, dx) % math.pi), key=lambda pair: pair[0])
            place = best[1] * ORIENTATIONS / math.pi
            low = int(place) % ORIENTATIONS
            cells[low, y // 4, x // 4] += (1 - place % 1) * best[0] / 16
            cells[(low + 1) % ORIENTATIONS, y // 4, x // 4] += place % 1 * best[0] / 16
    expected = torch.zeros_like(cells)
    for y in range(4):
        for x in range(4):
            around = cells[:, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
            expected[:, y, x] = cells[:, y, x] / (around.square().sum(0).mean() + 1e-4).sqrt()
    torch.testing.assert_close(orientation_energy(photo, (4, 4))[0], expected, rtol=1e-4, atol=1e-5)


def target(kind: str, teacher: torch.Tensor | None, channels: int = 6) -> torch.Tensor | None:
    batch = SimpleNamespace(pixels=torch.randn(2, 3, 32, 32), teacher=teacher)
    return structure_target(batch, DataRecipe(structure_target=kind), channels=channels, size=(8, 8))


def test_sam_s_features_come_to_the_encoder_s_grid():
    teacher = torch.randn(2, 6, 16, 16).half()
    expected = F.avg_pool2d(
        teacher.float(), 2
    )  # bilinear by one half, without antialias, is the mean of four
    torch.testing.assert_close(target("sam", teacher), expected)
    same = torch.randn(2, 6, 8, 8).half()
    torch.testing.assert_close(target("sam", same), same.float(), rtol=0, atol=0)
    assert target("none", teacher) is None
    assert target("gradients", None).shape == (2, ORIENTATIONS, 8, 8)


def test_a_target_that_does_not_fit_is_refused():
    with pytest.raises(TargetError, match="the batch has no SAM features: give SAM's checkpoint"):
        target("sam", None)
    with pytest.raises(
        TargetError, match="SAM's features have 5 channels, the model's structure_channels are 6"
    ):
        target("sam", torch.randn(2, 5, 8, 8))
