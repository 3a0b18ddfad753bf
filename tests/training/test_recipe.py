"""The presets are the paper's numbers, the variants its rows, and what cannot work is refused."""

from dataclasses import replace

import pytest

from ovsdino.network.config import PRESETS
from ovsdino.training.data.plan import micro_batches, plan_epochs, warm_steps
from ovsdino.training.recipe import (
    NANO_RECIPE,
    PAPER,
    Phase,
    RecipeError,
    differences,
    with_batch,
    with_epochs,
)
from ovsdino.training.variants import VARIANTS, apply_variant

COCO = 118_287  # photos of train2017


def test_the_paper_has_46_200_steps_of_which_1_848_warm_up():
    epochs = plan_epochs(PAPER, COCO, processes=8)
    assert (len(epochs), epochs[-1].end, warm_steps(PAPER, epochs)) == (25, 46_200, 1_848)


def test_nano_has_the_steps_that_it_was_trained_with():
    epochs = plan_epochs(NANO_RECIPE, 3882, processes=1)
    assert [epoch.phase.size for epoch in epochs] == [288] * 9 + [448]
    assert (epochs[-1].end, warm_steps(NANO_RECIPE, epochs)) == (9 * 242 + 323, 58)


def test_phases_may_be_counted_in_steps():
    phases = (
        Phase(size=288, epochs=0, batch=16, micro_batch=16, steps=300),
        Phase(size=448, epochs=0, batch=12, micro_batch=12, steps=150),
    )
    recipe = replace(NANO_RECIPE, phases=phases, warmup_epochs=0.1)
    epochs = plan_epochs(recipe, 3882, processes=1)
    assert [(epoch.phase.size, epoch.steps) for epoch in epochs] == [(288, 242), (288, 58), (448, 150)]
    assert warm_steps(recipe, epochs) == 24


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_processes_share_each_step_without_gap_or_overlap(processes):
    recipe = replace(PAPER, phases=(Phase(448, 2, batch=8, micro_batch=2),))
    epoch = plan_epochs(recipe, 21, processes)[1]
    dealt = [micro_batches(epoch, 0, rank=rank, processes=processes) for rank in range(processes)]
    for step in range(epoch.steps):
        per_process = 4 // processes
        taken = [m for mine in dealt for m in mine[step * per_process : (step + 1) * per_process]]
        assert sorted(draw for some in taken for draw in some) == list(range(step * 8, step * 8 + 8))
        assert sorted(map(tuple, taken)) == [(i, i + 1) for i in range(step * 8, step * 8 + 8, 2)]


def test_a_resumed_epoch_takes_the_rest():
    epoch = plan_epochs(replace(PAPER, phases=(Phase(size=448, epochs=2, batch=8, micro_batch=2),)), 24, 1)[0]
    assert micro_batches(epoch, 2) == micro_batches(epoch, 0)[8:]


@pytest.mark.parametrize(
    ("name", "network"),
    [
        ("ours", "ovsdino-vitb14"),
        ("no-sam", "ovsdino-vitb14"),
        ("no-encoder", "ovsdino-vitb14-no-encoder"),
        ("no-gate", "ovsdino-vitb14-no-gate"),
        ("four-taps", "ovsdino-vitb14-four-taps"),
        ("frozen", "ovsdino-vitb14-frozen"),
        ("dino-v1", "ovsdino-vitb16-dino"),
        ("registers", "ovsdino-vitb14-registers"),
    ],
)
def test_the_paper_s_rows(name, network):
    recipe = apply_variant(PAPER, name)
    assert recipe.model == PRESETS[network]
    assert recipe.needs_teacher == (name != "no-sam")
    assert replace(recipe, model=PAPER.model, name=PAPER.name) == (
        PAPER
        if name != "no-sam"
        else replace(
            PAPER,
            weights=replace(PAPER.weights, align_cosine=0.0, align_mse=0.0),
            data=replace(PAPER.data, structure_target="none"),
        )
    )


def test_our_own_rows():
    gradients = apply_variant(NANO_RECIPE, "gradients")
    assert gradients.weights == replace(NANO_RECIPE.weights, align_cosine=1.0, align_mse=1.0)
    assert gradients.data == replace(NANO_RECIPE.data, structure_target="gradients")
    assert not gradients.needs_teacher
    even = apply_variant(NANO_RECIPE, "unbalanced")
    assert even.data == replace(NANO_RECIPE.data, balance=0.0)
    assert NANO_RECIPE.data.balance > 0


def test_every_row_is_tried_above():
    assert len(VARIANTS) == 10


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: replace(PAPER, phases=(Phase(size=448, epochs=2, batch=8, micro_batch=3),)),
            "multiple of the micro-batch, got 8 and 3",
        ),
        (
            lambda: replace(PAPER, phases=(Phase(size=450, epochs=2, batch=8, micro_batch=8),)),
            "multiple of the patch, 14 px, got 450",
        ),
        (lambda: with_epochs(PAPER, 1), "warm-up takes 1 epochs, .* got 1"),
        (lambda: with_epochs(NANO_RECIPE, 1), "nano has 2 phases"),
        (lambda: plan_epochs(PAPER, 50, 1), "50 photos do not fill a batch of 64; give a smaller --batch"),
        (lambda: plan_epochs(PAPER, COCO, 5), "5 processes cannot share a batch of 64"),
        (lambda: apply_variant(PAPER, "best"), "--variant best: unknown, expected one of ours, no-sam"),
        (lambda: apply_variant(NANO_RECIPE, "registers"), "nano has no variant registers"),
        (lambda: apply_variant(NANO_RECIPE, "dino-v1"), "only ovsdino-vitb14 has it, not nano"),
    ],
)
def test_what_cannot_work_is_refused(make, message):
    with pytest.raises(RecipeError, match=message):
        make()


def test_the_last_phase_keeps_its_share_of_the_epochs():
    assert [phase.epochs for phase in with_epochs(NANO_RECIPE, 20).phases] == [18, 2]
    assert [phase.epochs for phase in with_epochs(NANO_RECIPE, 2).phases] == [1, 1]


def test_a_smaller_batch_takes_its_micro_batch_along():
    assert with_batch(PAPER, 4, None).phases[0] == Phase(size=448, epochs=25, batch=4, micro_batch=4)
    assert with_batch(PAPER, None, 16).phases[0] == Phase(size=448, epochs=25, batch=64, micro_batch=16)


def test_differences_name_the_field_and_both_values():
    one, two = (
        PAPER.to_dict(),
        replace(PAPER, clip=0.5, phases=(Phase(size=448, epochs=25, batch=32, micro_batch=8),)).to_dict(),
    )
    assert differences(one, two) == ["clip was 1.0, is 0.5", "phases.0.batch was 64, is 32"]
    assert differences({f"k{i}": 0 for i in range(9)}, {})[-1] == "and 5 more"
