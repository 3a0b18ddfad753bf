"""dinov3.seg learns by the same loop: what moves, what stays, killed, shared, validated."""

import signal

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ovsdino.dinov3seg.checkpoint import read_model
from ovsdino.training.run.checkpointing import STATE
from ovsdino.training.run.loop import train
from tests.training.dinov3seg_run import SMALL_SEG, dinov3seg_job, run_seg, save_start, train_seg_until
from tests.training.test_checkpointing import assert_same_tensors, steps
from tests.training.test_distributed import free_port
from tests.training.tiny_run import NOUNS, make_data, run_child, start_child

FUSED = ("attn.qkv.weight",)  # of timm's attentions, in both towers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    make_data(path)
    save_start(path)
    return path


def write_labelled(folder):
    """A photo with its labels, a rectangle each."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    labels = np.zeros((40, 60), np.uint8)
    labels[:, 30:] = 1
    Image.fromarray(np.array(list(NOUNS.values()), np.uint8)[labels]).save(folder / "images/a.png")
    Image.fromarray(labels).save(folder / "labels/a.png")
    (folder / "names.txt").write_text("cat\ngrass\nsky\n")
    return folder


def test_queries_and_values_learn_and_all_else_of_the_vlm_stays_bit_by_bit(folder, tmp_path):
    labelled = write_labelled(tmp_path / "labelled")
    weights = train(dinov3seg_job(folder, tmp_path / "out", validate=labelled))
    before, after = load_file(folder / "start.safetensors"), load_file(weights)
    assert before.keys() == after.keys()
    for name, old in before.items():
        new = after[name]
        if name.startswith("vlm.") and name.endswith(FUSED):
            moved = [not torch.equal(*pair) for pair in zip(old.chunk(3), new.chunk(3), strict=True)]
            assert moved == [True, False, True], name
        elif name.startswith(("vlm.", "prior.")):
            learns = name.startswith("prior.") and not SMALL_SEG.prior.frozen
            assert learns or torch.equal(old, new), name
    assert not torch.equal(before["cost_embedding.weight"], after["cost_embedding.weight"])
    assert sum(name.endswith(FUSED) and name.startswith("vlm.text") for name in before) == 2
    model = read_model(SMALL_SEG, weights)
    assert torch.isfinite(model(torch.zeros(1, 3, 32, 32), model.vlm.text(torch.ones(2, 4).long()))).all()
    assert "mIoU" in (tmp_path / "out/epochs.csv").read_text()


def test_a_run_that_is_killed_ends_in_the_weights_of_one_that_is_not(folder, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert run_child(train_seg_until, folder, whole, 0) == 0
    assert run_child(train_seg_until, folder, killed, 2) == -signal.SIGKILL
    assert run_child(train_seg_until, folder, killed, 0) == 0
    for name in ("last.safetensors", STATE):
        assert_same_tensors(whole / name, killed / name)
    assert steps(killed) == steps(whole)


def test_two_processes_end_in_the_weights_of_one(folder, tmp_path):
    port = free_port()
    children = [start_child(run_seg, folder, tmp_path / "two", rank, 2, port) for rank in range(2)]
    assert run_child(run_seg, folder, tmp_path / "one", 0, 1, port) == 0
    for child in children:
        child.join()
        assert child.exitcode == 0
    one, two = (load_file(tmp_path / name / "last.safetensors") for name in ("one", "two"))
    for name, weights in one.items():
        # Only the order of a sum of two gradients differs; Adam turns a tiny gradient's rounding into a step.
        torch.testing.assert_close(weights, two[name], rtol=1e-3, atol=2e-3)
    mean = sum(float((weights - two[name]).abs().mean()) for name, weights in one.items()) / len(one)
    assert mean < 1e-5
