"""Label many photos or frames with changing classes, and watch the process: memory, threads, files.

python tests/runtime/soak.py --photos 2000 --model nano
python -m tests.runtime.soak --frames 10000 --model tiny
"""

import gc
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click
import numpy as np

from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.base.options import RuntimeOptions
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


def film(folder: Path, count: int) -> Iterator[Frame]:
    """Write a video of that many small frames, and read it as `ovsdino-run` does."""
    from ovsdino_runtime.files.sources import read_frames
    from ovsdino_runtime.files.video import VideoWriter

    rows, columns = np.mgrid[:96, :160]
    writer = VideoWriter(folder / "film.mp4", rate=25)
    for index in range(count):
        writer.write(np.stack([rows + index, columns, rows + columns], -1).astype(np.uint8), index / 25)
    writer.close()
    return read_frames([folder / "film.mp4"])


def soak(
    segmenter: Segmenter, frames: Iterator[Frame], every: int, seed: int = 0
) -> Iterator[tuple[int, Usage]]:
    """Label photos or frames; after so many of them each, say what the process holds."""
    dice = random.Random(seed)
    stream = Stream(segmenter, frames, classes="red, blue")
    for done, result in enumerate(stream, 1):
        assert (result.segmentation is None) == (result.frame.photo is None)
        if done % CHANGE == 0:
            chosen = dice.sample(WORDS, dice.randint(1, 9))
            stream.set_classes([*chosen, f"{chosen[0]} number {done}"], background=dice.choice([None, 0.5]))
        if done % every == 0:
            yield done, usage()


def load(model: str, folder: Path, options: RuntimeOptions) -> Segmenter:
    """Load a model; "tiny" is the tests' own."""
    if model == "tiny":
        from tests.fuzz.workspace import Workspace

        return Segmenter.load(Workspace(folder / "tiny").bundle, options)
    return Segmenter.load(model, options)


@click.command()
@click.option("--photos", default=2000, show_default=True)
@click.option("--frames", type=int, help="Frames of a video instead of photos.")
@click.option("--sides", type=(int, int), default=(40, 700), show_default=True, help="Of photos [px].")
@click.option("--model", default="nano", show_default=True, help='"tiny" is the tests\' own model.')
@click.option("--threads", type=int)
@click.option("--inference", type=click.Choice(["slide", "whole"]), default="slide", show_default=True)
def main(
    photos: int,
    frames: int | None,
    sides: tuple[int, int],
    model: str,
    threads: int | None,
    inference: Literal["slide", "whole"],
) -> None:
    """Print what the process holds as it goes."""
    options = RuntimeOptions(threads=threads, inference=inference)
    with tempfile.TemporaryDirectory(prefix="ovsdino-soak-") as temporary:
        folder = Path(temporary)
        total, what = (frames, "frames") if frames else (photos, "photos")
        source = film(folder, frames) if frames else pictures(photos, sides, seed=0)
        for done, now in soak(load(model, folder, options), source, max(1, total // 20)):
            click.echo(f"{done:6} {what}  {now.memory:8.1f} MB  {now.threads} threads  {now.files} files")


if __name__ == "__main__":
    main()
