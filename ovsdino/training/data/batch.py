"""A training batch: squares of photos, words, and the ground truth of each word in each square."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

UNKNOWN = -1  # label of a pixel of which nothing is said
OTHER = -2  # label of a pixel with none of the photo's closed words


@dataclass(frozen=True, slots=True)
class WeakBox:
    """A word that occurs somewhere in a box of a square, without a mask."""

    photo: int  # of the batch
    word: int  # of the batch
    box: tuple[float, float, float, float]  # left, top, right, bottom in 0..1 of the square


@dataclass(frozen=True)
class Batch:
    """B squares, N words, and the ground truth of the words in the squares.

    A photo whose masks partition it (exclusive) has ``labels``; other photos have one mask for each word.
    """

    pixels: Tensor  # (B, 3, S, S) float32, normalised with the model's mean and std
    labels: Tensor | None  # (B, s, s) int64: index into words, UNKNOWN or OTHER; UNKNOWN in other photos
    exclusive: Tensor  # (B,) bool: do the photo's masks partition it
    pairs: Tensor  # (M, 2) int64: the photo and the word of each mask
    masks: Tensor  # (M, s, s) uint8: 1 inside, 0 outside
    ignore: Tensor | None  # (B, s, s) bool: nothing is said here; None: nowhere
    words: tuple[str, ...]  # N nouns: of the photos, closed, and of no photo
    text: Tensor  # of what the nouns are called in this batch: (N, D) unit embeddings, or (N, T) token ids
    valid: Tensor  # (B, N) bool: may this word be judged in this photo
    closed: Tensor  # (B, N) bool: is this word absent outside its own regions
    related: Tensor  # (N, N) bool: synonyms, wider and narrower words
    similar: Tensor  # (N, N) bool: words that mean nearly the same, or may be right at the same pixels
    boxes: tuple[WeakBox, ...]  # words without a mask
    photos: tuple[str, ...]  # names, for messages
    decoded: Tensor | None = None  # (K,) int64: the words that dinov3.seg decodes; None: all
    teacher: Tensor | None = None  # (B, 256, h, w): SAM's neck output of the same squares, or HED's stage 3
    view: Tensor | None = None  # (B, 3, 1024, 1024) uint8: the squares as SAM reads them, until it has

    def __len__(self) -> int:
        return len(self.photos)

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """Return the batch on another device."""
        return replace(
            self, **{n: t.to(device, non_blocking=non_blocking) for n, t in self._tensors().items()}
        )

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (a DataLoader calls this)."""
        return replace(self, **{name: tensor.pin_memory() for name, tensor in self._tensors().items()})

    def _tensors(self) -> dict[str, Any]:
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}
