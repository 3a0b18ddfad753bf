"""Linear CKA: of rotations, of noise, against Gram matrices written out, whatever the batches."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from ovsdino.analysis.cka import LinearCKA, coarser_grid, to_examples


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def rotation(width, seed=0):
    return torch.linalg.qr(noise(width, width, seed=seed))[0]


def cka(first, second, cuts=()):
    sums = LinearCKA()
    edges = [0, *cuts, len(first[0])]
    for start, stop in pairwise(edges):
        sums.add([x[start:stop] for x in first], [y[start:stop] for y in second])
    return sums.result()


def gram_cka(x, y):
    """HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)) with K = XX', L = YY', each centred, by loops."""
    n = len(x)
    grams = []
    for rows in (x.double().numpy(), y.double().numpy()):
        gram = np.array([[float(np.dot(a, b)) for b in rows] for a in rows])
        centre = np.eye(n) - 1 / n
        grams.append(centre @ gram @ centre)
    k, l_ = grams

    def hsic(a, b):
        return sum(a[i, j] * b[j, i] for i in range(n) for j in range(n)) / (n - 1) ** 2

    return hsic(k, l_) / np.sqrt(hsic(k, k) * hsic(l_, l_))


def test_a_rotated_scaled_and_shifted_layer_is_the_same():
    x = noise(500, 12) @ torch.diag(torch.linspace(0.1, 3, 12))
    same = 7 * x @ rotation(12) + noise(1, 12, seed=3)
    assert cka([x], [same], (100, 101))[0, 0] == pytest.approx(1, abs=1e-5)
    assert cka([x], [x])[0, 0] == pytest.approx(1, abs=1e-6)
    stretched = x @ torch.diag(torch.linspace(3, 0.1, 12))  # not a rotation
    assert cka([x], [stretched])[0, 0] < 0.95


def test_independent_noise_is_unlike():
    assert cka([noise(20_000, 8)], [noise(20_000, 6, seed=1)])[0, 0] < 0.002


def test_chance_is_what_noise_gives_where_examples_are_few():
    sums = [LinearCKA() for _ in range(40)]
    for seed, one in enumerate(sums):
        one.add([noise(60, 30, seed=seed)], [noise(60, 20, seed=1000 + seed)])
    assert np.mean([one.result() for one in sums]) == pytest.approx(sums[0].chance()[0, 0], rel=0.05)


@pytest.mark.parametrize("cuts", [(), (1,), (10, 11, 30)])
def test_it_is_the_hsic_of_gram_matrices(cuts):
    x, y = noise(40, 5), noise(40, 9, seed=1)
    y[:, :3] += 2 * x[:, :3] + 5
    layers = [[x, x.square()], [y, y[:, :2], y.abs()]]
    found = cka(*layers, cuts)
    expected = [[gram_cka(a, b) for b in layers[1]] for a in layers[0]]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert 0.2 < found[0, 0] < 0.95


def test_a_mean_far_above_the_spread_does_no_harm():
    x, y = noise(3000, 6), noise(3000, 6, seed=1)
    y += x
    expected = cka([x], [y])[0, 0]
    assert cka([x + 3000], [y - 5000], range(100, 3000, 100))[0, 0] == pytest.approx(expected, rel=1e-3)


def test_what_is_held_does_not_grow_with_the_examples():
    sums = LinearCKA()
    held = []
    for seed in range(5):
        sums.add([noise(50, 7, seed=seed)], [noise(50, 5, seed=seed + 9)])
        held.append(sum(tensor.numel() for tensor in sums._products.values()))
    assert held == [7 * 7 + 5 * 5 + 7 * 5] * 5
    assert sums.count == 250


def test_a_constant_layer_is_like_nothing():
    found = cka([torch.ones(20, 3), noise(20, 3)], [noise(20, 4, seed=1)])
    assert np.isnan(found[0, 0])
    assert np.isfinite(found[1, 0])


def test_maps_are_averaged_over_the_coarser_grid():
    fine, coarse = noise(2, 3, 8, 4), noise(2, 5, 4, 6, seed=1)
    assert coarser_grid(fine, coarse) == (4, 4)
    rows = to_examples([fine], (4, 4))[0].reshape(2, 4, 4, 3)
    for photo in range(2):
        for row in range(4):
            for column in range(4):
                cell = fine[photo, :, 2 * row : 2 * row + 2, column].mean(1)
                torch.testing.assert_close(rows[photo, row, column], cell)
    assert to_examples([coarse], (4, 6))[0][7].tolist() == coarse[0, :, 1, 1].tolist()
