"""What a run leaves behind, and how it stops."""

import csv
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from ovsdino.network.checkpoint import read_config, read_model, save_model
from ovsdino.network.model import OVSDINO
from ovsdino.training.data_recipe import LossWeights
from ovsdino.training.distributed import Team
from ovsdino.training.recipe import Phase, RecipeError
from ovsdino.training.run import step as step_module
from ovsdino.training.run.checkpointing import begin
from ovsdino.training.run.loop import Stopwatch, train
from ovsdino.training.run.step import TERMS, DivergedError, use_precision
from ovsdino.training.systems import ovsdino as inputs_module
from ovsdino.training.systems.ovsdino import open_inputs
from tests.training.test_sam_features import tiny_sam
from tests.training.tiny_run import TINY, make_data, tiny_job, tiny_recipe


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    make_data(path)
    return path


def rows(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_run_learns_and_leaves_what_export_takes(folder, tmp_path):
    phases = (
        Phase(size=32, epochs=6, batch=4, micro_batch=4),
        Phase(size=48, epochs=1, batch=3, micro_batch=3),
    )
    weights = train(tiny_job(folder, tmp_path, tiny_recipe(phases=phases), save_every=1e9))
    assert read_config(weights) == TINY
    model = read_model(TINY, weights)
    assert torch.isfinite(model(torch.zeros(1, 3, 32, 32))).all()
    steps = rows(tmp_path / "steps.csv")
    assert [row["size"] for row in steps] == ["32"] * 18 + ["48"] * 4
    assert float(steps[17]["cross_entropy"]) < 0.5 * float(steps[0]["cross_entropy"])
    weighted = sum(
        value * float(steps[0][name]) for name, value in vars(tiny_recipe().weights).items() if value
    )
    assert float(steps[0]["loss"]) == pytest.approx(weighted, rel=1e-4)
    assert 0 < float(steps[0]["waited"]) < float(steps[0]["seconds"])
    assert any((tmp_path / "tensorboard").iterdir())


def test_frozen_weights_stay_as_they_are_to_the_last_bit(folder, tmp_path):
    config = replace(TINY, trained_blocks=3)
    start = tmp_path / "start.safetensors"
    torch.manual_seed(3)
    save_model(OVSDINO(config), start)
    recipe = tiny_recipe(model=config, weights_dtype="float32", average=0.0)
    before, after = load_file(start), load_file(train(tiny_job(folder, tmp_path, recipe, init=start)))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    frozen = {
        name
        for name in before
        if name.startswith("backbone.")
        and not name.startswith(tuple(f"backbone.vit.blocks.{number}." for number in (9, 10, 11)))
    }
    assert not moved & frozen
    assert {"head.scale", "projector.weight", "backbone.vit.blocks.9.attn.qkv.weight"} <= moved


def test_accumulation_is_the_mean_of_the_micro_batches(folder, tmp_path):
    """The gradient of a step equals that of the mean loss over its micro-batches, taken at once."""
    recipe = tiny_recipe(precision="fp32", average=0.0, clip=1e9)
    job = tiny_job(folder, tmp_path, recipe)
    team = Team(0, 1, torch.device("cpu"))
    inputs = open_inputs(job, team)
    data = inputs.make_dataset(recipe.data_of(recipe.phases[0]))
    batches = [data.collate([data[i], data[i + 1]]) for i in (0, 2)]
    learner = begin(inputs.make_model(), recipe, device=torch.device("cpu"))
    reference = step_module.Objective(
        inputs.make_model(), data.recipe, weights=recipe.weights, loss=inputs.loss_terms
    )
    (sum(reference(batch)[0] for batch in batches) / 2).backward()
    norm = torch.stack([p.grad.norm() for p in reference.parameters() if p.grad is not None]).norm()
    figures = step_module.Stepper(learner, recipe, data=data.recipe, team=team, loss=inputs.loss_terms)(
        iter(batches), 2, 1.0
    )
    assert figures["gradient"] == pytest.approx(float(norm), rel=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_names_step_term_and_photos(folder, tmp_path, monkeypatch, value):
    whole, calls = inputs_module.loss_terms, []

    def spoil(model, batch, data):
        calls.append(batch.photos)
        terms = whole(model, batch, data)
        return terms | {"dice": terms["dice"] * value} if len(calls) == 4 else terms

    monkeypatch.setattr(inputs_module, "loss_terms", spoil)
    with pytest.raises(DivergedError) as error:
        train(tiny_job(folder, tmp_path))
    photos = ", ".join(calls[3])
    assert str(error.value).startswith(f"step 2: dice is not finite; photos {photos}; ")
    assert all(torch.isfinite(w).all() for w in load_file(tmp_path / "state.safetensors").values())


def test_an_infinite_gradient_of_a_finite_loss_is_seen(folder, tmp_path, monkeypatch):
    whole = inputs_module.loss_terms

    def steep(model, batch, data):
        terms = whole(model, batch, data)
        return terms | {"bce": terms["bce"] + (model.head.bias * 0).sqrt()}  # value 0, derivative infinite

    monkeypatch.setattr(inputs_module, "loss_terms", steep)
    with pytest.raises(DivergedError, match="step 1: the gradient is not finite; photos "):
        train(tiny_job(folder, tmp_path))


def test_a_cpu_has_bf16_in_the_backbone_alone_and_only_while_it_learns():
    torch.manual_seed(0)
    model, plain = OVSDINO(TINY), OVSDINO(TINY)
    plain.load_state_dict(model.state_dict())
    use_precision(model.backbone, "bf16", torch.device("cpu"))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(model(pixels), plain(pixels), rtol=0, atol=0)
    half, exact = model(pixels).detach(), plain(pixels).detach()
    assert 0 < float((half - exact).abs().max()) < 0.1 * float(exact.abs().max())
    with pytest.raises(RecipeError, match="--precision fp16 needs a GPU"):
        use_precision(model.backbone, "fp16", torch.device("cpu"))


def test_the_stopwatch_measures_waiting_alone():
    def slow():
        import time

        for number in range(2):
            time.sleep(0.05)
            yield number

    watch = Stopwatch(slow())
    assert list(watch) == [0, 1]
    assert 0.1 <= watch.seconds < 5
    assert len(TERMS) == 6


@pytest.mark.parametrize("encoder", [True, False], ids=["ours", "no-encoder"])
def test_sam_teaches_the_same_on_the_fly_and_from_disk(folder, tmp_path, encoder):
    sam = tmp_path / "sam_vit_b_01ec64.pth"
    torch.save(tiny_sam().state_dict(), sam)
    base = tiny_recipe(phases=(Phase(size=32, epochs=1, batch=4, micro_batch=4),), warmup_epochs=0.5)
    recipe = replace(
        base,
        model=replace(TINY, structure_channels=256, encoder=encoder),
        data=replace(base.data, structure_target="sam", view=64, crops=1),
        weights=LossWeights(),
    )
    live = tiny_job(folder, tmp_path / "live", recipe, sam=sam)
    kept = tiny_job(folder, tmp_path / "kept", recipe, sam=sam, sam_cache=tmp_path / "cache")
    one, two = (load_file(train(job)) for job in (live, kept))
    assert all(torch.equal(one[name], two[name]) for name in one)
    terms = rows(tmp_path / "live/steps.csv")[0]
    assert (float(terms["align_cosine"]) > 0) == encoder
    with pytest.raises(RecipeError, match="give its weights with --sam FILE"):
        train(tiny_job(folder, tmp_path / "none", recipe))
