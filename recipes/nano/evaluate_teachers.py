"""Measure the teachers' mIoU and Boundary IoU on DATA/dev, for comparison with nano.

A teacher sees each photo once, as a whole, resized to its own square; its labels are resized back by nearest
neighbour. A label for which a set has no class is wrong wherever the truth is known.

Usage: python recipes/nano/evaluate_teachers.py --data DATA --teachers WEIGHTS/teachers
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from evaluate_dev import BENCHES, read_pairs, words_of

from ovsdino.masks.teachers.tflite import TEACHERS, TfliteSegmenter
from ovsdino_runtime.geometry.metrics import Counts, count, scores
from ovsdino_runtime.text.vocabulary import load_vocabulary

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
# Cityscapes' class by train id -> CamVid's; what is not here has no class there.
CAMVID = {
    "road": "road",
    "sidewalk": "pavement",
    "building": "building",
    "wall": "building",
    "fence": "fence",
    "pole": "pole",
    "traffic light": "traffic sign",
    "traffic sign": "traffic sign",
    "vegetation": "tree",
    "sky": "sky",
    "person": "pedestrian",
    "rider": "bicyclist",
    "car": "car",
    "truck": "car",
    "bus": "car",
    "motorcycle": "bicyclist",
    "bicycle": "bicyclist",
}


@dataclass(frozen=True)
class Task:
    """A set, its teacher, and the set's class for each label of the teacher."""

    bench: str
    teacher: str
    classes: tuple[int, ...]  # -1: none


def tasks() -> list[Task]:
    """List the pairs of set and teacher to measure; labels are matched by name."""
    camvid, cityscapes, voc = (load_vocabulary(v).names for v in ("camvid11", "cityscapes19", "voc21"))
    return [
        Task("ADE20K-31", "ade", (-1, *range(31))),
        Task(
            "CamVid-11",
            "cityscapes",
            tuple(camvid.index(CAMVID[c]) if c in CAMVID else -1 for c in cityscapes),
        ),
        Task("VOC21", "voc", tuple(range(len(voc)))),
        Task("VOC21, samples", "voc", tuple(range(len(voc)))),
    ]


def measure(network: TfliteSegmenter, task: Task, data: Path) -> Counts:
    """Segment every photo of a set and compare with the truth; the last class stands for all others."""
    bench = BENCHES[task.bench]
    names = len(words_of(bench, synonyms=False).names)
    total = Counts.zero(names + 1)
    table = np.array([names if c < 0 else c for c in task.classes], np.int32)
    for photo, truth in read_pairs(bench, data, names):
        total += count(truth, table[network(photo)], names + 1)
    return total


@click.command()
@click.option("--data", type=FOLDER, required=True)
@click.option("--teachers", type=FOLDER, required=True, help="The TFLite files.")
def main(data: Path, teachers: Path) -> None:
    """Print each teacher's mIoU and Boundary IoU [%] on its sets."""
    for task in tasks():
        teacher = TEACHERS[task.teacher]
        network = TfliteSegmenter(teachers / teacher.file, floating=teacher.floating)
        result = scores(measure(network, task, data))
        figures = f"{100 * result.miou:5.1f}   boundary {100 * result.boundary_miou:5.1f}"
        click.echo(f"{task.bench:16} {figures}   {teacher.file}")


if __name__ == "__main__":
    main()
