"""A training sample: a square with its ground truth, indexed by the nouns of its photo."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import Tensor

from ovsdino.masks.store.shards import PhotoMasks, Rle
from ovsdino.training.data.augment import Box, Mask, Square, cut_box, cut_mask
from ovsdino.training.data.batch import OTHER, UNKNOWN
from ovsdino.training.data_recipe import DataRecipe

MOSTLY = 0.6  # share of a weak word's box that must lie in the square


@dataclass(frozen=True)
class Truth:
    """The ground truth of a square, from the masks of its photo."""

    nouns: tuple[str, ...]  # of the whole photo, also those outside the square
    labels: npt.NDArray[np.int64] | None  # (s, s) index into nouns, UNKNOWN or OTHER; exclusive masks only
    places: tuple[int, ...]  # index into nouns of each mask
    masks: npt.NDArray[np.uint8]  # (m, s, s); none if exclusive
    ignore: Mask | None  # (s, s)
    weak: tuple[tuple[int, Box], ...]  # index into nouns and box in 0..1 of the square
    closed: tuple[str, ...]  # words that are absent outside their own regions
    absent: tuple[str, ...]  # words that must not serve as negatives

    @property
    def visible(self) -> frozenset[str]:
        """Nouns whose mask or box lies in the square."""
        seen = {place for place, _ in self.weak} | set(self.places)
        if self.labels is not None:
            seen |= set(np.unique(self.labels).tolist()) - {UNKNOWN, OTHER}
        return frozenset(self.nouns[place] for place in seen)


@dataclass(frozen=True)
class Sample:
    """A square and its ground truth."""

    photo: str
    seed: tuple[int, ...]  # seed of the random choices of the sample and its batch
    pixels: Tensor  # (3, S, S) float32, normalised
    truth: Truth
    teacher: Tensor | None = None  # (256, 64, 64) FP16
    view: Tensor | None = None  # (3, 1024, 1024) uint8


def cut_truth(
    photo: PhotoMasks, square: Square, *, recipe: DataRecipe, generator: np.random.Generator
) -> Truth:
    """Cut the masks and boxes of a photo to a square."""
    side = recipe.size // recipe.label_stride
    nouns = tuple(dict.fromkeys(region.noun for region in photo.regions))

    def cut(rle: Rle) -> Mask:
        return cut_mask(rle.decode(), square, side)

    noun_masks: dict[int, Mask] = {}
    for region in photo.regions:
        if region.rle is not None:
            place, mask = nouns.index(region.noun), cut(region.rle)
            noun_masks[place] = noun_masks[place] | mask if place in noun_masks else mask
    ignore = None if photo.ignore is None else cut(photo.ignore)
    labels = label_map(noun_masks, ignore, side) if photo.exclusive else None
    seen = [place for place, mask in noun_masks.items() if mask.any()]
    drawn = generator.permutation(seen)[: recipe.positives].tolist() if labels is None else []
    masks = [noun_masks[place] for place in sorted(drawn)]
    return Truth(
        nouns=nouns,
        labels=labels,
        places=tuple(sorted(drawn)),
        masks=np.stack(masks).astype(np.uint8) if masks else np.zeros((0, side, side), np.uint8),
        ignore=ignore if labels is None else None,
        weak=cut_weak(photo, nouns, square=square, recipe=recipe, generator=generator),
        closed=photo.closed or tuple(nouns[place] for place in noun_masks),
        absent=photo.absent,
    )


def label_map(masks: dict[int, Mask], ignore: Mask | None, side: int) -> npt.NDArray[np.int64]:
    """Combine exclusive masks into a label map; uncovered pixels are OTHER, ignored pixels UNKNOWN."""
    labels = np.full((side, side), OTHER, np.int64)
    for place, mask in masks.items():
        labels[mask] = place
    if ignore is not None:
        labels[ignore] = UNKNOWN
    return labels


def cut_weak(
    photo: PhotoMasks,
    nouns: tuple[str, ...],
    *,
    square: Square,
    recipe: DataRecipe,
    generator: np.random.Generator,
) -> tuple[tuple[int, Box], ...]:
    """Choose words without a mask whose box lies mostly inside the square."""
    kept: list[tuple[int, Box]] = []
    for region in photo.regions if recipe.weak_words else ():
        if region.rle is None:
            box, share = cut_box(region.box, square)
            if share > MOSTLY:
                kept.append((nouns.index(region.noun), box))
    return tuple(kept[index] for index in generator.permutation(len(kept))[: recipe.weak_words])
