"""Label many photos of changing size with changing classes, and watch the process: memory, threads, files.

python tests/runtime/soak.py --photos 2000 --model nano
"""

import gc
import os
import random
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np

from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.stream import Stream

WORDS = ["road", "car", "sky", "tree", "dog", "cat", "boat", "sea", "sand", "roof", "wall", "door", "chair"]
BROKEN = 50  # every so many photos cannot be used
CHANGE = 7  # every so many photos the classes are others


@dataclass(frozen=True)
class Usage:
    memory: float  # [MB] resident
    threads: int
    files: int  # open


def usage() -> Usage:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    files = [file.readlink().name for file in Path("/proc/self/fd").iterdir() if file.exists()]
    own = [name for name in files if not name.startswith("onnxruntime.db")]  # it keeps a book of its own
    return Usage(pages * os.sysconf("SC_PAGE_SIZE") / 1e6, threading.active_count(), len(own))


def pictures(count: int, sides: tuple[int, int], seed: int) -> Iterator[Frame]:
    """Noise of changing size, now and then a single pixel or none."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        height, width = (1, 1) if index % BROKEN == 1 else rng.integers(*sides, 2).tolist()
        photo = None if index % BROKEN == 2 else rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        yield Frame(Source("photo", f"{index}.png"), photo, index=index)


def soak(segmenter: Segmenter, photos: int, *, sides=(40, 700), seed: int = 0) -> Iterator[tuple[int, Usage]]:
    """Label photos; after each 20th of them, say what the process holds."""
    dice = random.Random(seed)
    stream = Stream(segmenter, pictures(photos, sides, seed), "red, blue")
    for done, result in enumerate(stream, 1):
        assert (result.segmentation is None) == (result.frame.photo is None)
        if done % CHANGE == 0:
            chosen = dice.sample(WORDS, dice.randint(1, 9))
            stream.set_classes([*chosen, f"{chosen[0]} number {done}"], background=dice.choice([None, 0.5]))
        if done % max(1, photos // 20) == 0:
            yield done, usage()


@click.command()
@click.option("--photos", default=2000, show_default=True)
@click.option("--model", default="nano", show_default=True)
@click.option("--threads", type=int)
@click.option("--inference", type=click.Choice(["slide", "whole"]), default="slide", show_default=True)
def main(photos: int, model: str, threads: int | None, inference: Literal["slide", "whole"]) -> None:
    """Print what the process holds as it goes."""
    for done, now in soak(Segmenter.load(model, threads=threads, inference=inference), photos):
        click.echo(f"{done:6} photos  {now.memory:8.1f} MB  {now.threads} threads  {now.files} files")


if __name__ == "__main__":
    main()
