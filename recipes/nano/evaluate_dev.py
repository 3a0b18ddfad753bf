"""Stage 6 of nano: mIoU on DATA/dev, with the paper's windows, beside the teachers' own figures."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from rich.progress import track
from text_bank import PhraseEncoder

from ovsdino.checkpoint import read_model
from ovsdino.config import PRESETS
from ovsdino.head import cosine
from ovsdino.model import OVSDINO
from ovsdino_runtime.preprocess import fit_size
from ovsdino_runtime.windows import plan_windows

IGNORE = 255


@dataclass(frozen=True)
class Bench:
    """One small labelled set: its folder, its words, and how its labels map to them."""

    folder: str
    words: str  # key of classes.json
    first: int = 0  # words left out at the front (background)
    count: int | None = None
    shift: int = 0  # label of the first word
    background: bool = False  # label 0 is 'none of the words', found by threshold
    teacher: float | None = None  # the teacher's own mIoU on this set, weights/README.md


BENCHES = {
    "ADE20K-31": Bench("ade20k", "ade150", count=31, shift=1, teacher=51.7),
    "ADE20K-150": Bench("ade20k", "ade150", shift=1),
    "CamVid-11": Bench("camvid", "camvid11", teacher=51.5),
    "VOC20": Bench("voc", "voc21", first=1, shift=1),
    "VOC21": Bench("voc", "voc21", first=1, shift=1, background=True, teacher=57.9),
    "VOC-samples-21": Bench("voc_samples", "voc21", first=1, shift=1, background=True, teacher=63.5),
    "COCO-Object": Bench("coco_object", "coco_object81", first=1, shift=1, background=True),
}
SPLIT = {"diningtable": "dining table", "pottedplant": "potted plant", "tvmonitor": "tv monitor"}


@torch.inference_mode()
def logits(model: OVSDINO, photo: Image.Image, text: torch.Tensor) -> torch.Tensor:
    """Score a photo by windows: (N, H, W) at the resized photo's size."""
    side = model.config.image_size
    height, width = fit_size(photo.height, photo.width, short_side=side, long_side=2048)
    image = torch.from_numpy(np.array(photo.resize((width, height), Image.Resampling.BILINEAR))).permute(
        2, 0, 1
    )
    image = image.float() / 255
    image = (image - torch.tensor(model.config.mean)[:, None, None]) / torch.tensor(model.config.std)[
        :, None, None
    ]
    total = torch.zeros(len(text), height, width)
    count = torch.zeros(height, width)
    for w in plan_windows(height, width, size=side, stride=side // 2):
        crop = F.interpolate(
            image[None, :, w.top : w.top + w.height, w.left : w.left + w.width], (side, side)
        )
        scores = F.interpolate(cosine(model(crop), text), (w.height, w.width), mode="bilinear")[0]
        total[:, w.top : w.top + w.height, w.left : w.left + w.width] += scores
        count[w.top : w.top + w.height, w.left : w.left + w.width] += 1
    return total / count


def confusion(
    model: OVSDINO, bench: Bench, data: Path, words: list[str], text: torch.Tensor, cut: float
) -> np.ndarray:
    """Count (truth, prediction) pairs over one set, class 0 being background where the set has one."""
    classes = len(words) + bench.background
    table = np.zeros((classes, classes), np.int64)
    for path in track(
        sorted((data / "dev" / bench.folder / "labels").glob("*.png")), description=bench.folder
    ):
        truth = np.asarray(Image.open(path)).astype(int)
        image = next((data / "dev" / bench.folder / "images").glob(f"{path.stem}.*"))
        scores = logits(model, Image.open(image).convert("RGB"), text)
        scores = F.interpolate(scores[None], truth.shape, mode="bilinear")[0]
        best, label = scores.max(0)
        prediction = label.numpy() + bench.background
        if bench.background:
            p = torch.sigmoid(model.head.scale * best + model.head.bias).numpy()
            prediction[p < cut] = 0
        target = np.where(truth == IGNORE, -1, truth - bench.shift + bench.background)
        valid = (target >= 0) & (target < classes)
        table += np.bincount(target[valid] * classes + prediction[valid], minlength=classes**2).reshape(
            classes, -1
        )
    return table


def miou(table: np.ndarray) -> float:
    """Return the mean IoU [%] over the classes that the truth holds."""
    hit = np.diag(table)
    union = table.sum(0) + table.sum(1) - hit
    return float(100 * (hit / np.maximum(union, 1))[table.sum(1) > 0].mean())


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--checkpoint", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--text", type=click.Path(exists=True, path_type=Path), required=True)
@click.option("--bench", "names", multiple=True, type=click.Choice(list(BENCHES)))
@click.option("--background", default=0.5, show_default=True)
@click.option("--out", type=click.Path(path_type=Path))
def main(
    data: Path, checkpoint: Path, text: Path, names: tuple[str, ...], background: float, out: Path | None
) -> None:
    """Print nano's mIoU on each set of DATA/dev."""
    model = read_model(PRESETS["nano"], checkpoint)
    classes = json.loads((data / "classnames" / "classes.json").read_text())
    encoder = PhraseEncoder(text)
    results = {}
    for name in names or tuple(BENCHES):
        bench = BENCHES[name]
        words = [SPLIT.get(w, w) for w in classes[bench.words][bench.first :][: bench.count]]
        embeddings = torch.from_numpy(encoder.embed(words))
        table = confusion(model, bench, data, words, embeddings, background)
        results[name] = {"miou": round(miou(table), 1), "teacher": bench.teacher}
        click.echo(f"{name:16} {results[name]['miou']:5.1f}   teacher {bench.teacher or '-'}")
    if out:
        out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
