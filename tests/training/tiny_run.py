"""A run that every test can afford: nano's blocks on 32 px, a dozen photos of coloured rectangles."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from PIL import Image

from ovsdino.masks.store.photo_masks import MaskRegion, PhotoMasks, Rle
from ovsdino.masks.store.shards import MaskInfo, finish_masks, listing_hash, start_masks, write_shard
from ovsdino.network.config import NANO
from ovsdino.training.recipe import NANO_RECIPE, Phase, Recipe
from ovsdino.training.systems.ovsdino import TrainingJob

NOUNS = {"cat": (200, 40, 40), "grass": (40, 200, 40), "sky": (40, 40, 200)}
TINY = replace(NANO, name="tiny", image_size=32, position_grid=2, encoder_width=32, norm_groups=16)
PHOTOS = 12


def tiny_recipe(**changes) -> Recipe:
    data = replace(NANO_RECIPE.data, size=32, largest=48, shares=(), distractors=1, label_stride=4)
    phases = (Phase(size=32, epochs=2, batch=4, micro_batch=2),)
    return replace(
        NANO_RECIPE, **{"model": TINY, "data": data, "phases": phases, "warmup_epochs": 1.0} | changes
    )


def make_data(folder: Path) -> None:
    """Write FOLDER/photos and FOLDER/masks: two rectangles of colour a photo, exclusive masks."""
    generator = np.random.default_rng(0)
    photos = folder / "photos"
    photos.mkdir(parents=True)
    names = list(NOUNS)
    records = []
    for number in range(PHOTOS):
        left, right = generator.choice(3, 2, replace=False)
        cut = int(generator.integers(16, 48))
        pixels = np.zeros((48, 64, 3), np.uint8)
        pixels[:, :cut], pixels[:, cut:] = NOUNS[names[left]], NOUNS[names[right]]
        noise = generator.integers(0, 20, pixels.shape)
        Image.fromarray((pixels + noise).astype(np.uint8)).save(photos / f"{number:02d}.png")
        masks = np.zeros((2, 48, 64), bool)
        masks[0, :, :cut] = masks[1, :, cut:] = True
        regions = tuple(
            MaskRegion(noun=names[noun], rle=Rle.encode(mask), score=1.0, box=(0, 0, 64, 48))
            for noun, mask in zip((left, right), masks, strict=True)
        )
        records.append(
            PhotoMasks(
                image=f"{number:02d}.png",
                height=48,
                width=64,
                source="test",
                regions=regions,
                exclusive=True,
                closed=tuple(NOUNS),
                ignore=None,
            )
        )
    images = [record.image for record in records]
    info = MaskInfo(
        schema_version=1,
        made_by="test",
        source="test",
        options={},
        listing=listing_hash(images),
        photos=PHOTOS,
        shard_size=PHOTOS,
    )
    start_masks(folder / "masks", info)
    write_shard(folder / "masks", 0, records)
    finish_masks(folder / "masks")


def tiny_job(folder: Path, out: Path, recipe: Recipe | None = None, **changes) -> TrainingJob:
    job = TrainingJob(
        recipe=recipe or tiny_recipe(),
        photos=folder / "photos",
        masks=folder / "masks",
        out=out,
        workers=0,
        device="cpu",
    )
    return replace(job, **{"save_every": 0.0} | changes)


def die_at(module: object, name: str, call: int) -> None:
    """Let a function's call number ``call``, from 1, do its work and kill the process."""
    whole, calls = getattr(module, name), 0

    def counted(*arguments, **options):
        nonlocal calls
        result = whole(*arguments, **options)
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(module, name, counted)


def train_until(folder: Path, out: Path, place: str, call: int) -> None:
    """Train, and die by SIGKILL at a place of the loop."""
    import torch

    from ovsdino.training.run import checkpointing, log, loop

    torch.set_num_threads(1)
    if place == "step":  # a step is logged, and not saved
        die_at(log.Log, "step", call)
    elif place == "write":  # the new state is written beside the old one
        die_at(checkpointing, "save_file", call)
    elif place == "publish":  # the weights are published, and the state is not saved
        die_at(loop, "save_model", call)
    loop.train(tiny_job(folder, out))


def start_child(function: Callable[..., None], *arguments: object):
    """Run a function in a process of its own; they share one import of torch."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["ovsdino.training.run.loop", "ovsdino.training.cli"])
    child = context.Process(target=function, args=arguments)
    child.start()
    return child


def run_child(function: Callable[..., None], *arguments: object) -> int:
    """Run a function in a process of its own, and return its exit code."""
    child = start_child(function, *arguments)
    child.join()
    return child.exitcode
