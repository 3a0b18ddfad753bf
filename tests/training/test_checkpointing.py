"""A run that is killed, however and wherever, ends in the weights of one that is not."""

import csv
import signal
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ovsdino.network.checkpoint import CheckpointError
from ovsdino.training.run.checkpointing import STATE, begin, read_header, restore, save_state
from ovsdino.training.run.loop import train
from tests.training.tiny_run import make_data, run_child, tiny_job, tiny_recipe, train_until


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    make_data(path)
    return path


def steps(out):
    with (out / "steps.csv").open(newline="") as file:
        return [
            {key: value for key, value in row.items() if key not in ("seconds", "waited")}
            for row in csv.DictReader(file)
        ]


def assert_same_tensors(one, other):
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_run_killed_four_times_ends_in_the_same_weights(folder, tmp_path):
    assert run_child(train_until, folder, tmp_path / "whole", "nowhere", 0) == 0
    killed = tmp_path / "killed"
    for place, call in (("step", 2), ("write", 2), ("publish", 1), ("step", 2)):
        assert run_child(train_until, folder, killed, place, call) == -signal.SIGKILL
    assert run_child(train_until, folder, killed, "nowhere", 0) == 0
    assert_same_tensors(tmp_path / "whole/last.safetensors", killed / "last.safetensors")
    assert_same_tensors(tmp_path / "whole" / STATE, killed / STATE)
    assert steps(killed) == steps(tmp_path / "whole")
    assert [row["step"] for row in steps(killed)] == ["1", "2", "3", "4", "5", "6"]


def test_a_state_holds_all_that_learning_depends_on(folder, tmp_path):
    recipe = tiny_recipe()
    model = tiny_model(recipe)
    learner = begin(model, recipe, device=torch.device("cpu"))
    for parameter in learner.parts.trained:
        parameter.grad = torch.randn_like(parameter)
    learner.optimizer.step()
    learner.step, learner.best = 7, 12.5
    settings = {"recipe": recipe.to_dict()}
    save_state(learner, settings, tmp_path)
    header = read_header(tmp_path)
    other = begin(tiny_model(recipe, seed=1), recipe, device=torch.device("cpu"))
    other.frozen = header.frozen
    restore(other, header, tmp_path)
    assert (other.step, other.best) == (7, 12.5)
    assert_same_states(learner.optimizer, other.optimizer)
    for one, two in ((learner.model, other.model), (learner.average, other.average)):
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        assert all(torch.equal(first, second) for first, second in pairs)


def tiny_model(recipe, seed=0):
    from ovsdino.network.model import OVSDINO

    torch.manual_seed(seed)
    return OVSDINO(recipe.model)


def assert_same_states(one, other):
    first, second = one.state_dict(), other.state_dict()
    assert first["param_groups"] == second["param_groups"]
    assert first["state"].keys() == second["state"].keys()
    for number, kept in first["state"].items():
        assert all(torch.equal(value, second["state"][number][key]) for key, value in kept.items())


def test_a_resumed_run_names_the_settings_that_changed(folder, tmp_path):
    recipe = tiny_recipe()
    train(tiny_job(folder, tmp_path, recipe))
    changed = replace(recipe, new_rate=2e-3, clip=0.5)
    with pytest.raises(CheckpointError) as error:
        train(tiny_job(folder, tmp_path, changed))
    assert "recipe.clip was 1.0, is 0.5; recipe.new_rate was 0.001, is 0.002; give the same" in str(
        error.value
    )


def test_a_finished_run_is_left_alone(folder, tmp_path):
    job = tiny_job(folder, tmp_path)
    train(job)
    before = (tmp_path / STATE).stat().st_mtime_ns
    assert train(job) == tmp_path / "last.safetensors"
    assert (tmp_path / STATE).stat().st_mtime_ns == before


def test_a_damaged_state_is_refused_and_kept(folder, tmp_path):
    (tmp_path / STATE).write_bytes(b"\x10\0\0\0\0\0\0\0{")
    with pytest.raises(CheckpointError, match="not a readable state"):
        train(tiny_job(folder, tmp_path))
    assert (tmp_path / STATE).stat().st_size == 9


def test_a_state_without_pickle(folder, tmp_path):
    train(tiny_job(folder, tmp_path))
    with safe_open(tmp_path / STATE, framework="pt") as file:
        assert {name.split(".")[0] for name in file.keys()} == {"model", "average", "optimizer"}  # noqa: SIM118
