"""dinov3.seg's recipe: CAT-Seg's numbers, its ablations, and what is refused."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from ovsdino.dinov3seg.presets import PRESETS, VITL16
from ovsdino.network.checkpoint import CheckpointError
from ovsdino.training.data.augment import draw_square, jitter_colours
from ovsdino.training.data.plan import plan_epochs, warm_steps
from ovsdino.training.distributed import Team
from ovsdino.training.optimizer import rate_factor
from ovsdino.training.recipe import (
    DINOV3SEG_RECIPE,
    DINOV3SEG_TINY_RECIPE,
    NANO_RECIPE,
    Phase,
    RecipeError,
    with_epochs,
    with_steps,
)
from ovsdino.training.systems.dinov3seg import TokenBank, open_dinov3seg_inputs
from ovsdino.training.variants import DINOV3SEG_VARIANTS, apply_variant
from tests.training.dinov3seg_run import SMALL_SEG, dinov3seg_job, dinov3seg_recipe, save_start
from tests.training.tiny_run import NOUNS, make_data

COCO = 118_287


def test_the_schedule_is_cat_seg_s():
    epochs = plan_epochs(DINOV3SEG_RECIPE, COCO, processes=4 // DINOV3SEG_RECIPE.phases[0].micro_batch)
    assert [epoch.steps for epoch in epochs] == [29_571, 29_571, 20_858]  # 80,000 in all, batch 4
    assert warm_steps(DINOV3SEG_RECIPE, epochs) == 0
    assert rate_factor(0, warm=0, total=80_000) == 1
    assert rate_factor(40_000, warm=0, total=80_000) == pytest.approx(0.5)
    assert DINOV3SEG_RECIPE.new_rate == pytest.approx(2e-4)
    assert DINOV3SEG_RECIPE.backbone_rate == pytest.approx(0.01 * DINOV3SEG_RECIPE.new_rate)
    assert (DINOV3SEG_RECIPE.weight_decay, DINOV3SEG_RECIPE.clip, DINOV3SEG_RECIPE.average) == (1e-4, 0.01, 0)


def test_a_square_is_the_short_side():
    data = DINOV3SEG_RECIPE.data_of(DINOV3SEG_RECIPE.phases[0])
    squares = [
        draw_square(480, 640, recipe=data, generator=np.random.default_rng(seed)) for seed in range(50)
    ]
    assert all(square.side == pytest.approx(480) and square.top == pytest.approx(0) for square in squares)
    assert min(square.left for square in squares) < 20 < 140 < max(square.left for square in squares)
    assert 10 < sum(square.mirrored for square in squares) < 40


def test_colours_change_as_ssd_s():
    """Each change has a chance of one half, so that one photo in sixteen is left alone."""
    photo = np.random.default_rng(0).integers(40, 200, (8, 8, 3), np.uint8)
    changed = [
        jitter_colours(photo, DINOV3SEG_RECIPE.data, np.random.default_rng(seed)) for seed in range(400)
    ]
    same = sum(np.array_equal(photo, one) for one in changed)
    assert 10 <= same <= 45  # 25 expected; hue turns back and forth, so a few more may round to the same
    shifts = [float(one.astype(float).mean() - photo.mean()) for one in changed]
    assert min(shifts) < -25
    assert max(shifts) > 25
    assert np.array_equal(changed[3], jitter_colours(photo, DINOV3SEG_RECIPE.data, np.random.default_rng(3)))


@pytest.mark.parametrize(
    "recipe", [DINOV3SEG_RECIPE, DINOV3SEG_TINY_RECIPE], ids=lambda recipe: recipe.model.name
)
@pytest.mark.parametrize("name", sorted(DINOV3SEG_VARIANTS.keys() - {"ours", "clip"}))
def test_the_ablations(recipe, name):
    changed = apply_variant(recipe, name)
    assert changed.model == PRESETS[f"{recipe.model.name}-{name}"]
    assert replace(changed, model=recipe.model, name=recipe.name) == recipe


def test_clip_takes_squares_that_fit_its_patches():
    recipe = apply_variant(DINOV3SEG_RECIPE, "clip")
    assert recipe.model == PRESETS["dinov3seg-vitl14-clip"]
    data = recipe.data_of(recipe.phases[0])
    assert (data.size, data.largest, recipe.phases[0].size) == (336, 336, 336)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: apply_variant(DINOV3SEG_RECIPE, "no-gate"),
            "--variant no-gate: unknown, expected one of ours, ",
        ),
        (lambda: apply_variant(NANO_RECIPE, "no-early"), "--variant no-early: unknown"),
        (
            lambda: apply_variant(DINOV3SEG_TINY_RECIPE, "clip"),
            "only dinov3seg-vitl16 has it, not dinov3seg-tiny",
        ),
        (lambda: with_steps(NANO_RECIPE, 10), "--steps 10: nano has 2 phases; give --epochs or --phase"),
        (
            lambda: replace(DINOV3SEG_RECIPE, phases=(Phase(size=384, epochs=0, batch=4, micro_batch=4),)),
            "epochs and batches must be at least 1",
        ),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_steps_and_epochs_replace_each_other():
    assert with_steps(DINOV3SEG_RECIPE, 100).phases == (
        Phase(size=384, epochs=0, batch=4, micro_batch=4, steps=100),
    )
    assert with_epochs(DINOV3SEG_RECIPE, 3).phases == (Phase(size=384, epochs=3, batch=4, micro_batch=4),)
    assert [epoch.steps for epoch in plan_epochs(with_steps(DINOV3SEG_RECIPE, 3), 100, 1)] == [3]
    assert [epoch.steps for epoch in plan_epochs(with_steps(DINOV3SEG_RECIPE, 50), 100, 1)] == [25, 25]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"init": None},
            r"small-seg learns from public weights; give --init FILE: DINOv3 .*; --text FILE: dino.txt",
        ),
        (
            {"init": "photos/00.png", "sam": "photos/00.png", "text": "nowhere.pth"},
            "--text .*nowhere.pth: no such file; give dino.txt's",
        ),
        ({"init": None, "anyup": "nowhere"}, "--anyup .*nowhere: no such file; give AnyUp"),
        ({"init": "nowhere"}, "--init .*nowhere: no such file"),
    ],
)
def test_missing_weights_are_named(tmp_path, changes, message):
    make_data(tmp_path)
    paths = {name: path and tmp_path / path for name, path in changes.items()}
    with pytest.raises(CheckpointError, match=message):
        open_dinov3seg_inputs(
            dinov3seg_job(tmp_path, tmp_path / "out", **paths), Team(0, 1, torch.device("cpu"))
        )


def test_the_full_size_names_all_it_needs(tmp_path):
    make_data(tmp_path)
    job = dinov3seg_job(tmp_path, tmp_path / "out", DINOV3SEG_RECIPE, init=None)
    with pytest.raises(CheckpointError) as error:
        open_dinov3seg_inputs(job, Team(0, 1, torch.device("cpu")))
    assert all(f"--{name} FILE" in str(error.value) for name in ("init", "text", "sam"))
    assert VITL16.prior is not None
    assert VITL16.prior.frozen


def test_words_are_put_into_the_prompt():
    bank = TokenBank(("cat", "fire hydrant", "cat"), SMALL_SEG)
    ids = bank(["fire hydrant", "cat"])
    assert ids.shape == (2, 77)
    # CLIP's pieces of "a photo of a cat": beginning, 5 words, end.
    assert ids[1, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]


def test_a_batch_has_all_words_and_decodes_those_in_its_squares_first(tmp_path):
    make_data(tmp_path)
    save_start(tmp_path)
    recipe = dinov3seg_recipe()
    inputs = open_dinov3seg_inputs(
        dinov3seg_job(tmp_path, tmp_path / "out", recipe), Team(0, 1, torch.device("cpu"))
    )
    data = recipe.data_of(recipe.phases[0])
    batch = inputs.make_dataset(data)
    whole = batch.collate([batch[0], batch[1]])
    assert set(whole.words) == set(NOUNS)
    assert whole.decoded is None
    assert torch.equal(whole.text, inputs.bank(whole.words))
    few = inputs.make_dataset(replace(data, decoded=1))
    for index in range(8):
        samples = [few[index]]
        found = few.collate(samples)
        assert found.decoded is not None
        assert len(found.decoded) == 1
        assert found.words[int(found.decoded[0])] in samples[0].truth.visible
        assert torch.equal(found.decoded, few.collate(samples).decoded)
