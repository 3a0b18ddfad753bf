"""A handful of tiny photos with masks on disk, and the words of nano's real text tower."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from ovsdino.masks.store.shards import (
    MaskInfo,
    MaskRegion,
    PhotoMasks,
    Rle,
    finish_masks,
    listing_hash,
    start_masks,
    write_beside,
    write_shard,
)
from ovsdino.network.config import NANO
from ovsdino.training.data.synonyms import Synonyms
from ovsdino.training.targets.word_bank import Prompter, WordBank, build_word_bank, load_prompter

HEIGHT, WIDTH = 96, 120
CLOSED = ("road", "sidewalk", "sky", "car")
SYNONYMS = Synonyms({"car": ("car", "automobile"), "taxi": ("taxi", "cab")}, {"taxi": "car"})
COLOURS = {"road": 40, "sidewalk": 90, "sky": 140, "car": 190, "ignored": 230, "other": 250}


@lru_cache
def prompter() -> Prompter:
    return load_prompter(NANO)


def bank_of(words, folder: Path) -> WordBank:
    return build_word_bank(words, prompter(), folder / "words")


def areas(seed: int) -> np.ndarray:
    """An index into COLOURS at each pixel: blobs with edges in all directions."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    centres = generator.uniform(0, (HEIGHT, WIDTH), (9, 2))
    nearest = ((y[..., None] - centres[:, 0]) ** 2 + (x[..., None] - centres[:, 1]) ** 2).argmin(-1)
    return np.array([0, 1, 2, 3, 4, 5, 0, 2, 5])[nearest]


def exclusive_photo(folder: Path, name: str, seed: int, **changes) -> PhotoMasks:
    """A photo whose grey values are its labels."""
    area = areas(seed)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    grey = np.array(list(COLOURS.values()), np.uint8)[area]
    Image.fromarray(np.repeat(grey[..., None], 3, 2)).save(folder / name)
    regions = [region(noun, area == i) for i, noun in enumerate(COLOURS) if i < 4]
    regions.append(MaskRegion(noun="taxi", rle=None, score=0.9, box=(30.0, 20.0, 90.0, 70.0)))
    values = {"regions": tuple(regions), "exclusive": True, "closed": CLOSED, "ignore": Rle.encode(area == 4)}
    return PhotoMasks(image=name, height=HEIGHT, width=WIDTH, source="segmenters", **(values | changes))


def open_photo(folder: Path, name: str, nouns: tuple[str, ...], seed: int, **changes) -> PhotoMasks:
    """A photo of noise whose nouns have masks that overlap."""
    generator = np.random.default_rng(seed)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(generator.integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8)).save(folder / name)
    regions = []
    for noun in nouns:
        mask = np.zeros((HEIGHT, WIDTH), bool)
        top, left = generator.integers(0, 30, 2)
        mask[top : top + 60, left : left + 80] = True
        regions.append(region(noun, mask))
    values = {"regions": tuple(regions), "exclusive": False, "closed": (), "ignore": None}
    return PhotoMasks(
        image=name, height=HEIGHT, width=WIDTH, source="grounding-dino+sam", **(values | changes)
    )


def region(noun: str, mask: np.ndarray) -> MaskRegion:
    return MaskRegion(noun=noun, rle=Rle.encode(mask), score=1.0, box=(0.0, 0.0, float(WIDTH), float(HEIGHT)))


def write_synonyms(folder: Path, synonyms: Synonyms) -> None:
    write_beside(folder, "synonyms.json", synonyms.names)
    write_beside(folder, "wider.json", synonyms.wider)


def write_masks(folder: Path, records: list[PhotoMasks], synonyms: Synonyms | None = SYNONYMS) -> Path:
    """Write a finished folder of masks."""
    images = [record.image for record in records]
    info = MaskInfo(
        schema_version=1,
        made_by="test",
        source="test",
        options={},
        listing=listing_hash(images),
        photos=len(images),
        shard_size=4,
    )
    for shard in start_masks(folder, info):
        write_shard(folder, shard, records[info.part(shard)])
    finish_masks(folder)
    if synonyms is not None:
        write_synonyms(folder, synonyms)
    return folder
