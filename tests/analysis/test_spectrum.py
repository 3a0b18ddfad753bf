"""Spectra of signals that are known: a cosine, noise, a sum written out; means over photos."""

import math

import numpy as np
import pytest
import torch

from ovsdino.analysis.errors import AnalysisError
from ovsdino.analysis.spectrum import SpectrumMean, SpectrumOptions, find_rings, log_ratio, radial_energy

H, W, BINS = 16, 24, 8


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def cosine(v, u):
    y, x = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return torch.cos(2 * math.pi * (v * y / H + u * x / W) + 0.3)[None, None]


@pytest.mark.parametrize(("v", "u"), [(1, 0), (0, 1), (3, 0), (0, 7), (2, 5), (5, 9), (-4, 6), (7, 11)])
def test_a_cosine_lands_in_its_ring_with_its_energy(v, u):
    radius = math.hypot(v / H, u / W) / math.sqrt(0.5)
    ring = int(radius * BINS)
    members = sum(
        min(int(math.hypot(min(j, H - j) / H, min(i, W - i) / W) / math.sqrt(0.5) * BINS + 1e-9), BINS - 1)
        == ring
        for j in range(H)
        for i in range(W)
    )
    energy = radial_energy(cosine(v, u), BINS)[0]
    assert energy.argmax() == ring
    # Two lines, each half the amplitude over all places, squared; the mean of the ring.
    assert energy[ring].item() == pytest.approx(2 * (H * W / 2) ** 2 / members, rel=1e-5)
    assert energy.sum().item() == pytest.approx(energy[ring].item(), rel=1e-6)


def test_white_noise_is_flat():
    energy = radial_energy(2 * noise(4, 512, 32, 32), 16).mean(0)
    # Each line has the variance of the noise times the number of places.
    np.testing.assert_allclose(energy, 4 * 32 * 32, rtol=0.04)
    assert log_ratio(energy, 0.25).item() == pytest.approx(math.log(12 / 4), abs=0.02)


@pytest.mark.parametrize("size", [(6, 6), (5, 8), (7, 7)])
def test_the_sums_written_out(size):
    height, width = size
    features = noise(2, 3, height, width)
    expected = np.zeros((2, 4))
    for photo, maps in enumerate(features.double().numpy()):
        found = [[] for _ in range(4)]
        for v in range(height):
            for u in range(width):
                powers = []
                for f in maps:
                    line = 0
                    for y in range(height):
                        for x in range(width):
                            line += f[y, x] * np.exp(-2j * np.pi * (u * x / width + v * y / height))
                    powers.append(abs(line) ** 2)
                down, across = min(v, height - v) / height, min(u, width - u) / width
                ring = min(int(np.hypot(down, across) / np.sqrt(0.5) * 4 + 1e-9), 3)
                found[ring].append(np.mean(powers))
        expected[photo] = [np.mean(ring) for ring in found]
    np.testing.assert_allclose(radial_energy(features, 4), expected, rtol=1e-5)


def test_the_ratio_by_hand():
    energy = torch.tensor([[8.0, 4.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0]])  # radii 0.125, 0.375, 0.625, 0.875
    expected = [[math.log(3 / 12), 0.0], [math.log(7 / 8), math.log(3)], [math.log(1 / 14), -math.log(3)]]
    for cutoff, ratios in zip((0.5, 0.2, 0.625), expected, strict=True):
        np.testing.assert_allclose(log_ratio(energy, cutoff), ratios, rtol=1e-6, atol=1e-7)


def test_the_mean_can_be_left_out():
    features = noise(2, 5, 8, 8)
    shifted = features + noise(1, 5, 1, 1, seed=1) * 100
    expected = radial_energy(features, 4, centred=True)
    np.testing.assert_allclose(radial_energy(shifted, 4, centred=True), expected, rtol=1e-3)
    assert (radial_energy(shifted, 4)[:, 0] > 100 * expected[:, 0]).all()
    np.testing.assert_allclose(radial_energy(features, 4)[:, 1:], expected[:, 1:], rtol=1e-4)


def test_means_do_not_depend_on_the_batches():
    options = SpectrumOptions(bins=4, cutoff=0.4)
    maps = [noise(7, 3, 8, 8), noise(7, 5, 8, 8, seed=1) + 1]
    mean = SpectrumMean(2, options)
    for start, stop in ((0, 1), (1, 5), (5, 7)):
        mean.add([one[start:stop] for one in maps])
    found = mean.result("noise", (3, 9))
    assert (found.photos, found.grid, found.layers) == (7, (8, 8), (3, 9))
    for row, features in enumerate(maps):
        energy = radial_energy(features, 4).double()
        ratios = log_ratio(energy, 0.4).numpy()
        np.testing.assert_allclose(found.energy[row], energy.mean(0), rtol=1e-5)
        assert found.log_ratio[row] == pytest.approx(ratios.mean(), rel=1e-5)
        assert found.deviation[row] == pytest.approx(ratios.std(), rel=1e-3)
    np.testing.assert_allclose(found.shares.sum(1), 1)


def test_rings_hold_every_frequency_once():
    rings = find_rings(32, 32, 16)
    assert rings[0, 0] == 0
    assert rings[16, 16] == 15  # the corner
    assert rings[0, 16] == int(math.sqrt(0.5) * 16)  # the end of an axis
    assert (rings == rings.T).all()


def test_options_that_cannot_work_are_refused():
    with pytest.raises(AnalysisError, match="bins must be at least 2, got 1"):
        SpectrumOptions(bins=1)
    for cutoff in (0.01, 0.97, -1, float("nan")):
        with pytest.raises(AnalysisError, match=r"cutoff must lie in 0\.03125\.\.0\.96875"):
            SpectrumOptions(cutoff=cutoff)
    with pytest.raises(AnalysisError, match=r"of 64 bins hold no frequency of a 8x8 grid; take fewer bins"):
        find_rings(8, 8, 64)
