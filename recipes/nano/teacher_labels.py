"""Stage 1 of nano: label every training photo with the TFLite teachers.

Writes one indexed PNG a photo and teacher, at the teacher's own resolution, under ``WORK/teachers``.
A photo whose label exists is skipped, so a killed run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
from PIL import Image
from rich.progress import track

SETS = ("voc", "coco", "bsds", "camvid", "facade", "street", "imagenet", "mixed")


@dataclass(frozen=True)
class Teacher:
    """A TFLite segmenter: its file, the input it wants and the photo sets where it can be trusted."""

    file: str
    size: int  # [px] square input
    floating: bool  # input in [-1, 1] and logits out; else uint8 in and labels out
    sets: tuple[str, ...]


TEACHERS = {
    "ade": Teacher("deeplabv3_mnv2_ade20k31_uint8.tflite", 512, False, SETS),
    "voc": Teacher("deeplabv3_mnv2_voc21_uint8.tflite", 513, False, SETS),
    "voc_float": Teacher("deeplabv3_mnv2_voc21_float.tflite", 257, True, SETS),
    "cityscapes": Teacher("deeplab_edgetpu_cityscapes19_uint8.tflite", 513, False, ("camvid", "facade")),
}


def open_teacher(teacher: Teacher, folder: Path) -> Callable[[Image.Image], np.ndarray]:
    """Return a function from an RGB photo to labels, uint8 (h, w), at the teacher's own resolution."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_path=str(folder / teacher.file), num_threads=1)
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def label(photo: Image.Image) -> np.ndarray:
        pixels = np.asarray(photo.resize((teacher.size, teacher.size), Image.Resampling.BILINEAR))[None]
        interpreter.set_tensor(source, pixels.astype(np.float32) / 127.5 - 1 if teacher.floating else pixels)
        interpreter.invoke()
        output = interpreter.get_tensor(target)[0]
        return (output.argmax(-1) if teacher.floating else output.squeeze()).astype(np.uint8)

    return label


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True, help="Where labels are kept.")
@click.option("--teacher", "names", multiple=True, type=click.Choice(list(TEACHERS)), help="Default: all.")
def main(data: Path, weights: Path, work: Path, names: tuple[str, ...]) -> None:
    """Run the teachers over the photos of DATA/train."""
    for name in names or tuple(TEACHERS):
        label = open_teacher(TEACHERS[name], weights / "teachers")
        for photos in TEACHERS[name].sets:
            folder = work / "teachers" / name / photos
            folder.mkdir(parents=True, exist_ok=True)
            paths = sorted((data / "train" / photos).rglob("*.jpg"))
            for path in track(paths, description=f"{name} {photos}"):
                target = folder / f"{path.stem}.png"
                if not target.exists():
                    partial = target.with_suffix(".part")
                    Image.fromarray(label(Image.open(path).convert("RGB"))).save(partial, "PNG")
                    partial.rename(target)


if __name__ == "__main__":
    main()
