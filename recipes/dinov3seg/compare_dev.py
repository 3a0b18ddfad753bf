"""Compare dinov3seg-tiny on DATA/dev with cosines of the same backbone, untrained and trained.

All see a photo by the network's own local-global inference, so that only the head differs. The sets are
those of recipes/nano without a background, since a plain cosine has no threshold to offer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from ovsdino.dinov3seg.checkpoint import PublicWeights, load_dinov3seg, load_public
from ovsdino.dinov3seg.correlation import correlate, text_halves
from ovsdino.dinov3seg.local_global import fuse_features, predict, resize
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import PRESETS
from ovsdino.network.head import cosine
from ovsdino.training.systems.dinov3seg_validation import embed_classes, read_pixels
from ovsdino.training.systems.validation import Labels
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.geometry.metrics import scores
from ovsdino_runtime.text.vocabulary import Vocabulary

sys.path.append(str(Path(__file__).parents[1] / "nano"))
from evaluate_dev import BENCHES, measure, words_of
from linear_head import LinearHead

PRESET = "dinov3seg-tiny"
SETS = ("VOC20", "CamVid-11", "ADE20K-31", "ADE20K-150")
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
Scores = Callable[[Tensor, Tensor], Tensor]  # photo (1, 3, H, W), text (N, D) -> (1, N, h, w)


@dataclass(frozen=True)
class Answer:
    """Arguments of the measuring function in recipes/nano."""

    labels: Labels


class Way:
    """Segment photos with a network and a way to score its classes."""

    def __init__(self, model: Dinov3Seg, score: Scores) -> None:
        self.model, self.score = model, score

    def __call__(self, photo: Path, words: Vocabulary, *, background: float | None) -> Answer:
        """Segment a photo, without background."""
        if background is not None:
            raise ValueError("these sets have no background")
        pixels = load_photo(photo)
        with torch.inference_mode():
            text = embed_classes(self.model, words.classes)
            logits = self.score(read_pixels(pixels, self.model.config), text)
            dense = F.interpolate(logits, pixels.shape[:2], mode="bilinear", align_corners=False)
        return Answer(dense[0].argmax(0).numpy())


def cosine_of_halves(model: Dinov3Seg) -> Scores:
    """Score by the mean cosine with both halves of the text, without refinement."""

    def score(photo: Tensor, text: Tensor) -> Tensor:
        patches = fuse_features(model, resize(photo, model.config.inference.view))
        return correlate(patches, text_halves(text, model.config)).mean(2)

    return score


def linear(model: Dinov3Seg) -> Scores:
    """Score by the cosine between mapped patches and the whole text embedding."""

    def score(photo: Tensor, text: Tensor) -> Tensor:
        return cosine(fuse_features(model, resize(photo, model.config.inference.view)), text)

    return score


def untrained(init: Path) -> Dinov3Seg:
    """Return the network at the start of its training."""
    torch.manual_seed(0)
    model = Dinov3Seg(PRESETS[PRESET])
    load_public(model, PublicWeights(backbone=init))
    return model.eval()


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--init", type=FILE, required=True, help="ViT-Ti/16, as timm publishes it.")
@click.option("--linear-head", type=FILE, help="What linear_head.py made.")
@click.option("--checkpoint", type=FILE, help="What `ovsdino train --preset dinov3seg-tiny` made.")
@click.option("--bench", "names", multiple=True, type=click.Choice(SETS))
def main(
    *, data: Path, init: Path, linear_head: Path | None, checkpoint: Path | None, names: tuple[str, ...]
) -> None:
    """Print the mIoU and Boundary IoU [%] of each model on each set."""
    first = untrained(init)
    ways = {"cosine, untrained": Way(first, cosine_of_halves(first))}
    if linear_head is not None:
        mapped = untrained(init)
        head = LinearHead(mapped.vlm.vision, mapped.config.vlm.text_width)  # type: ignore[arg-type]
        head.map.load_state_dict(load_file(linear_head))
        mapped.vlm.vision = head  # type: ignore[assignment]
        ways["cosine, linear map"] = Way(mapped, linear(mapped))
    if checkpoint is not None:
        trained = load_dinov3seg(PRESET, checkpoint)
        ways["cosine, its trained VLM"] = Way(trained, cosine_of_halves(trained))
        ways[PRESET] = Way(trained, lambda photo, text: predict(trained, photo, text))
    for name in names or SETS:
        words = words_of(BENCHES[name], synonyms=False)
        for label, way in ways.items():
            result = scores(measure(way, BENCHES[name], data, words, None))  # type: ignore[arg-type]
            figures = f"{100 * result.miou:5.1f}   boundary {100 * result.boundary_miou:5.1f}"
            click.echo(f"{name:12} {label:24} {figures}")


if __name__ == "__main__":
    main()
