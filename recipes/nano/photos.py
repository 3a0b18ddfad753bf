"""Training photos with their label maps, kept in memory and cut into augmented squares."""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms.v2 import ColorJitter

LARGEST = 640  # [px] short side that a photo is zoomed to at most
LABEL_STRIDE = 8  # [px] labels are compared on every eighth pixel
MOST_WORDS = 4  # words without a mask that one sample carries at most
SHARE = {
    "voc": 1.5,
    "coco": 2.0,
    "imagenet": 1.0,
    "mixed": 1.2,
    "camvid": 1.0,
    "facade": 0.7,
    "street": 0.7,
    "bsds": 1.2,
}


@dataclass(frozen=True)
class Sample:
    """One training square."""

    pixels: Tensor  # (3, S, S) in -1..1
    labels: Tensor  # (S/8, S/8) concept numbers
    words: Tensor  # (W, 5) left, top, right, bottom in 0..1 of the square, and a concept number; -1 pads


class Photos(Dataset[Sample]):
    """All labelled photos of WORK/masks; sample ``i`` of an epoch depends on seed, epoch and ``i`` alone."""

    def __init__(self, data: Path, work: Path) -> None:
        paths = sorted((work / "masks").rglob("*.png"))
        files = {p.stem: p for p in (data / "train").rglob("*.jpg")}
        self.names = [p.stem for p in paths]
        self.files = [files[name].read_bytes() for name in self.names]
        self.masks = [p.read_bytes() for p in paths]
        self.share = np.array([SHARE[p.parent.name] for p in paths])
        self.words: dict[str, list[dict]] = json.loads((work / "words.json").read_text())
        self.jitter = ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.03)
        self.size, self.seed = 320, 0

    def order(self, seed: int) -> list[int]:
        """Draw one epoch's photos, in proportion to their set's share."""
        generator = np.random.default_rng(seed)
        return generator.choice(len(self), len(self), p=self.share / self.share.sum()).tolist()

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:
        generator = np.random.default_rng((self.seed, self.size, index))
        torch.manual_seed(int(generator.integers(2**31)))
        photo = Image.open(BytesIO(self.files[index])).convert("RGB")
        mask = Image.open(BytesIO(self.masks[index]))
        box = draw_box(photo.size, self.size, generator)
        pixels = photo.resize((self.size,) * 2, Image.Resampling.BILINEAR, box=box)
        side = self.size // LABEL_STRIDE
        labels = np.asarray(mask.resize((side, side), Image.Resampling.NEAREST, box=box)).astype(np.int64)
        image = self.jitter(torch.from_numpy(np.array(pixels)).permute(2, 0, 1)).float() / 127.5 - 1
        words = cut_words(self.words.get(self.names[index], []), box, photo.size, generator)
        if generator.random() < 0.5:
            image, labels = image.flip(-1), labels[:, ::-1].copy()
            known = words[:, 4] >= 0
            words[known, 0], words[known, 2] = 1 - words[known, 2], 1 - words[known, 0]
        return Sample(image, torch.from_numpy(labels), torch.from_numpy(words).float())


def draw_box(size: tuple[int, int], side: int, generator: np.random.Generator) -> tuple[float, ...]:
    """Draw a square: zoom so that the photo's short side is between ``side`` and LARGEST, then place it."""
    width, height = size
    short = np.exp(generator.uniform(np.log(side), np.log(LARGEST)))
    length = side / short * min(width, height)
    left, top = generator.uniform(0, width - length), generator.uniform(0, height - length)
    return (left, top, left + length, top + length)


def cut_words(
    words: list[dict], box: tuple[float, ...], size: tuple[int, int], generator: np.random.Generator
) -> np.ndarray:
    """Keep the words whose box lies mostly in the square, in the square's own coordinates: (W, 5)."""
    left, top, right, bottom = box
    rows = np.full((MOST_WORDS, 5), -1.0)
    kept = []
    for word in words:
        x0, y0, x1, y1 = np.array(word["box"]) * [*size, *size]
        inside = max(0, min(x1, right) - max(x0, left)) * max(0, min(y1, bottom) - max(y0, top))
        if inside > 0.6 * (x1 - x0) * (y1 - y0):
            corners = np.array([x0 - left, y0 - top, x1 - left, y1 - top]) / (right - left)
            kept.append([*corners.clip(0, 1), word["number"]])
    generator.shuffle(kept)
    for row, word in enumerate(kept[:MOST_WORDS]):
        rows[row] = word
    return rows


def collate(samples: list[Sample]) -> Sample:
    """Stack samples into a batch."""
    return Sample(
        *(torch.stack([getattr(s, field) for s in samples]) for field in ("pixels", "labels", "words"))
    )
