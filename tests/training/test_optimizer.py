"""What learns, how fast, and that nothing else moves."""

import math
from dataclasses import replace

import pytest
import torch

from ovsdino.network.config import NANO
from ovsdino.network.model import OVSDINO
from ovsdino.training.optimizer import fingerprint, follow, make_optimizer, prepare, rate_factor, set_rate
from ovsdino.training.recipe import PAPER
from tests.training.tiny_run import TINY


@pytest.mark.parametrize("trained", [0, 3])
def test_the_last_blocks_learn_slowly_and_the_rest_of_the_backbone_not_at_all(trained):
    model = OVSDINO(replace(TINY, trained_blocks=trained))
    parts = prepare(model)
    blocks = {name.split(".")[3] for name in parts.tuned}
    assert blocks == {str(number) for number in range(12 - trained, 12)}
    assert {name.split(".")[0] for name in parts.new} == {
        *("structure_encoder", "structure_decoder", "gate", "projector", "head")
    }
    named = {**parts.new, **parts.tuned, **parts.frozen}
    assert named.keys() == dict(model.named_parameters()).keys()
    optimizer = make_optimizer(parts, PAPER)
    peaks = {id(p): group["peak"] for group in optimizer.param_groups for p in group["params"]}
    expected = {id(p): 1e-4 for p in parts.new.values()} | {id(p): 1e-5 for p in parts.tuned.values()}
    assert peaks == expected
    assert not any(parameter.requires_grad for parameter in parts.frozen.values())


def test_decay_leaves_out_what_the_recipe_says():
    parts = prepare(OVSDINO(replace(TINY, trained_blocks=3)))
    everything = make_optimizer(parts, PAPER).param_groups
    assert [group["weight_decay"] for group in everything] == [PAPER.weight_decay] * 2
    groups = make_optimizer(parts, replace(PAPER, decayed="matrices")).param_groups
    decays = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    named = {**parts.new, **parts.tuned}
    assert decays.keys() == {id(parameter) for parameter in named.values()}
    kept = {name for name, parameter in named.items() if decays[id(parameter)] == 0}
    assert {"gate.alpha", "head.scale", "head.bias", "structure_encoder.fusion.layer_weights"} <= kept
    assert all(name.endswith("bias") or named[name].squeeze().ndim < 2 for name in kept)
    assert "projector.weight" not in kept


def test_frozen_modules_are_in_eval_mode_and_learning_ones_are_not():
    model = OVSDINO(replace(TINY, trained_blocks=3))
    prepare(model)
    modes = [block.training for block in model.backbone.vit.blocks]
    assert modes == [False] * 9 + [True] * 3
    assert not model.backbone.vit.patch_embed.training
    assert model.projector.training


def test_where_all_blocks_learn_the_whole_backbone_does():
    parts = prepare(OVSDINO(TINY))
    assert TINY.trained_blocks == NANO.backbone_depth
    assert not parts.frozen
    assert "backbone.vit.pos_embed" in parts.tuned


def test_a_fingerprint_sees_one_bit():
    parts = prepare(OVSDINO(replace(TINY, trained_blocks=3)))
    before = fingerprint(parts.frozen)
    assert before == fingerprint(parts.frozen)
    with torch.no_grad():
        weight = parts.frozen["backbone.vit.cls_token"]
        weight[0, 0, 0] = torch.nextafter(weight[0, 0, 0], torch.tensor(math.inf))
    assert fingerprint(parts.frozen) != before


def test_the_rate_rises_linearly_and_falls_as_a_cosine():
    factors = [rate_factor(step, warm=4, total=12) for step in range(13)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert factors[8] == pytest.approx(0.5)
    assert factors[12] == pytest.approx(0.0)
    # torch's own schedulers, as an independent reference
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=8)
    for factor in factors[4:]:
        assert optimizer.param_groups[0]["lr"] == pytest.approx(factor, abs=1e-9)
        optimizer.step()
        cosine.step()


def test_both_groups_follow_the_factor():
    optimizer = make_optimizer(prepare(OVSDINO(replace(TINY, trained_blocks=3))), PAPER)
    set_rate(optimizer, 0.5)
    assert [group["lr"] for group in optimizer.param_groups] == [0.5e-5, 0.5e-4]


def test_the_average_is_a_loop_s():
    torch.manual_seed(0)
    model, average = OVSDINO(TINY), OVSDINO(TINY)
    prepare(model)
    expected = {name: value.detach().clone() for name, value in average.named_parameters()}
    for step in range(3):
        keep = min(0.995, (step + 1) / (step + 10))
        for name, value in model.named_parameters():
            expected[name] = keep * expected[name] + (1 - keep) * value.detach()
        follow(average, model, step=step, decay=0.995)
    for name, value in average.named_parameters():
        torch.testing.assert_close(value.detach(), expected[name], rtol=1e-5, atol=1e-6)
