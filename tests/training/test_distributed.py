"""Two processes learn what one does, and all of them hear of trouble."""

import os
import socket

import pytest
import torch
from safetensors.torch import load_file

from ovsdino.training.distributed import join_team
from ovsdino.training.recipe import Phase
from ovsdino.training.run.loop import train
from ovsdino.training.systems.ovsdino import TrainingJob
from ovsdino_runtime.base.errors import OvsdinoError
from tests.training.tiny_run import make_data, run_child, start_child, tiny_job, tiny_recipe


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def train_as(job: TrainingJob, rank: int, size: int, port: int) -> None:
    """Train as torchrun would start it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(job)


def test_two_processes_end_in_the_weights_of_one(tmp_path):
    make_data(tmp_path)
    # In FP32: what differs is then the order of a sum of two micro-batches' gradients alone.
    phases = (
        Phase(size=32, epochs=1, batch=4, micro_batch=2),
        Phase(size=48, epochs=1, batch=4, micro_batch=2),
    )
    recipe = tiny_recipe(precision="fp32", phases=phases)
    alone, shared = tiny_job(tmp_path, tmp_path / "one", recipe), tiny_job(tmp_path, tmp_path / "two", recipe)
    port = free_port()
    children = [start_child(train_as, shared, rank, 2, port) for rank in range(2)]
    assert run_child(train_as, alone, 0, 1, port) == 0
    for child in children:
        child.join()
        assert child.exitcode == 0
    one, two = (load_file(job.out / "last.safetensors") for job in (alone, shared))
    start = load_file(tmp_path / "two/state.safetensors")
    assert one.keys() == two.keys()
    for name, weights in one.items():
        # 6 steps of AdamW at rates up to 1e-3 move a weight by about 3e-3; the published file is FP16.
        torch.testing.assert_close(weights.float(), two[name].float(), rtol=2e-3, atol=2e-4)
        torch.testing.assert_close(start[f"average.{name}"].half(), two[name], rtol=0, atol=0)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(OvsdinoError, match="process 4 of this machine has no GPU, there are 2"), join_team():
        pass


def test_a_gpu_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OvsdinoError, match="--device cuda: torch finds no GPU"), join_team("cuda"):
        pass
    with join_team("auto") as team:
        assert (team.device.type, team.size, team.leads) == ("cpu", 1, True)
