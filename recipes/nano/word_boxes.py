"""Stage 2 of nano: let the ImageNet classifier that nano starts from name boxes of every training photo.

The teachers of stage 1 know 55 words; ViT-Ti knows a thousand, but not where. It classifies a grid of boxes
at two scales, and stage 3 keeps what it is sure of. Writes ``WORK/boxes.json``, photo by photo resumable
through ``WORK/boxes/``.
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
import timm
import torch
from PIL import Image
from rich.progress import track
from safetensors.torch import load_file
from torch import nn

SCALES = ((1.0, 1), (0.55, 3))  # (side of the box over the photo's, boxes along each side)
INPUT = 224  # [px] the classifier's input
KEEP = 0.35  # least probability worth storing


def boxes() -> list[tuple[float, float, float, float]]:
    """Return the grid of boxes: left, top, right, bottom in 0..1 of the photo."""
    grid = []
    for side, count in SCALES:
        starts = [0.0] if count == 1 else [float(s) for s in np.linspace(0, 1 - side, count)]
        grid += [(x, y, x + side, y + side) for y in starts for x in starts]
    return grid


def classifier(weights: Path) -> nn.Module:
    """Return ViT-Ti/16 with its ImageNet head."""
    model = timm.create_model("vit_tiny_patch16_224")
    model.load_state_dict(load_file(weights / "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"))
    return model.eval()


@torch.inference_mode()
def name_boxes(model: nn.Module, photo: Image.Image) -> list[dict[str, object]]:
    """Return box, class index and probability wherever the classifier is sure enough."""
    grid = boxes()
    scale = np.array([photo.width, photo.height] * 2)
    crops = [
        photo.resize((INPUT, INPUT), Image.Resampling.BILINEAR, box=tuple(np.array(b) * scale)) for b in grid
    ]
    pixels = torch.from_numpy(np.stack([np.asarray(c) for c in crops])).permute(0, 3, 1, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(pixels.float() / 127.5 - 1)
    sure, index = logits.float().softmax(-1).max(-1)
    return [
        {"box": [round(v, 3) for v in box], "class": int(i), "p": round(float(p), 3)}
        for box, p, i in zip(grid, sure, index, strict=True)
        if p >= KEEP
    ]


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--work", type=click.Path(path_type=Path), required=True)
@click.option("--threads", default=2, show_default=True)
def main(data: Path, weights: Path, work: Path, threads: int) -> None:
    """Name boxes of every photo of DATA/train."""
    torch.set_num_threads(threads)
    model = classifier(weights)
    folder = work / "boxes"
    folder.mkdir(parents=True, exist_ok=True)
    paths = sorted((data / "train").rglob("*.jpg"))
    for path in track(paths, description="boxes"):
        target = folder / f"{path.stem}.json"
        if not target.exists():
            partial = target.with_suffix(".part")
            partial.write_text(json.dumps(name_boxes(model, Image.open(path).convert("RGB"))))
            partial.rename(target)
    everything = {p.stem: json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))}
    (work / "boxes.json").write_text(json.dumps(everything))


if __name__ == "__main__":
    main()
