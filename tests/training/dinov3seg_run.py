"""A run of dinov3.seg that every test can afford: the smallest towers on 32 px."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch

from ovsdino.dinov3seg.config import LocalGlobalConfig
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.checkpoint import save_model
from ovsdino.training.data_recipe import DINOV3SEG_DATA
from ovsdino.training.recipe import DINOV3SEG_RECIPE, Phase, Recipe
from ovsdino.training.systems.ovsdino import TrainingJob
from tests.dinov3seg.small import SMALL, SMALL_VLM
from tests.training.tiny_run import die_at

SMALL_SEG = replace(
    SMALL,
    name="small-seg",
    vlm=replace(SMALL_VLM, text_vocabulary=49408, head_drop_path=0.0),
    templates=("a photo of a {}",),
    crop=32,
    inference=LocalGlobalConfig(view=64, window=32, stride=32),
)


def dinov3seg_recipe(**changes) -> Recipe:
    data = replace(DINOV3SEG_DATA, size=32, largest=48)
    phases = (Phase(size=32, epochs=0, batch=4, micro_batch=2, steps=4),)
    values = {"name": "small", "model": SMALL_SEG, "data": data, "phases": phases, "precision": "fp32"}
    # Decay and rates so large that a weight which should be frozen would show it.
    values |= {"new_rate": 1e-2, "backbone_rate": 1e-3, "weight_decay": 0.1}
    return replace(DINOV3SEG_RECIPE, **(values | changes))


def dinov3seg_job(folder: Path, out: Path, recipe: Recipe | None = None, **changes) -> TrainingJob:
    """Return a job that begins with FOLDER/start.safetensors."""
    start = folder / "start.safetensors"
    job = TrainingJob(
        recipe=recipe or dinov3seg_recipe(),
        photos=folder / "photos",
        masks=folder / "masks",
        out=out,
        init=start,
        workers=0,
    )
    return replace(job, **{"device": "cpu", "save_every": 0.0} | changes)


def save_start(folder: Path) -> None:
    torch.manual_seed(0)
    save_model(Dinov3Seg(SMALL_SEG), folder / "start.safetensors")


def train_seg_until(folder: Path, out: Path, call: int) -> None:
    """Train, and die by SIGKILL when the step of that number was logged and not saved; 0: at no step."""
    from ovsdino.training.run import log

    torch.set_num_threads(1)
    if call:
        die_at(log.Log, "step", call)
    run_seg(folder, out, 0, 1, 0)


def run_seg(folder: Path, out: Path, rank: int, size: int, port: int) -> None:
    """Train as torchrun would start it."""
    from ovsdino.training.run.loop import train

    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    train(dinov3seg_job(folder, out))
