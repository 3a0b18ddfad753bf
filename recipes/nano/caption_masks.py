"""Label captioned photos with nano itself, using the nouns in their captions as classes.

Writes a labelled set for `ovsdino pseudo-masks --source sets`: OUT/images, OUT/labels (255 = unsure) and
OUT/names.txt. Every pixel chooses among the nouns that at least two captions of its photo share, and common
surroundings; what is not confident enough stays unsure.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track

from ovsdino.network.checkpoint import load_model
from ovsdino.training.systems.validation import photo_cosines
from ovsdino.training.targets.word_bank import load_prompter
from ovsdino_runtime.base.photo import load_photo

SURROUNDINGS = (
    "sky", "grass", "tree", "wall", "floor", "road", "sidewalk", "building", "ceiling", "water", "sand",
    "snow", "mountain", "ground", "sea", "fence", "window", "person", "table", "cabinet", "curtain", "door",
    "rug",
)  # fmt: skip
SHARED = 2  # captions of a photo that must name a word
SURE, SURE_SURROUNDINGS = 0.3, 0.5  # least confidence of a caption's word, and of what is around it
SMALLEST = 0.003  # of the photo: smaller regions are not believed
UNSURE = 255
FOUND = click.Path(path_type=Path, exists=True)


def named_nouns(captions: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Return the nouns in at least two captions, longer nouns first, so that "hot dog" is not read as "dog".

    Args:
        captions: of one photo.
        names: what a noun may be called -> the noun.
    """
    counts: Counter[str] = Counter()
    for caption in captions:
        text = f" {''.join(c if c.isalnum() or c == '-' else ' ' for c in caption.lower())} "
        nouns = set()
        for name in sorted(names, key=len, reverse=True):
            for form in (f" {name} ", f" {name}s ", f" {name}es "):
                if form in text:
                    nouns.add(names[name])
                    text = text.replace(form, "  ")
        counts.update(nouns)
    return sorted(noun for noun, count in counts.items() if count >= SHARED)


def choose(
    winners: NDArray[np.int64], confidence: NDArray[np.float32], *, words: Sequence[str], named: int
) -> dict[str, NDArray[np.bool_]]:
    """Return the regions that are believed; the captions say the first ``named`` words. Shape: (H, W)."""
    regions = {}
    for number, word in enumerate(words):
        region = (winners == number) & (confidence >= (SURE if number < named else SURE_SURROUNDINGS))
        if region.mean() >= SMALLEST:
            regions[word] = region
    return regions


def read_names(sets: Path, folders: Sequence[Path]) -> dict[str, str]:
    """Return name -> noun for all names of the nouns in labelled sets."""
    file = json.loads(sets.read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    for folder in folders:
        for line in (folder / "names.txt").read_text(encoding="utf-8").split("\n"):
            noun = file["nouns"].get(line.strip(), line.strip())
            if noun and noun != "background":
                names |= dict.fromkeys([line.strip(), noun, *file["names"].get(noun, [])], noun)
    return names | dict.fromkeys(("man", "woman", "people", "boy", "girl", "men", "women", "child"), "person")


@click.command()
@click.option("--photos", type=FOUND, required=True, help="images/ and tags.csv (file, text).")
@click.option("--sets", type=FOUND, required=True, help="sets.json.")
@click.option("--words-of", type=FOUND, multiple=True, required=True, help="Labelled sets with the nouns.")
@click.option("--checkpoint", type=FOUND, required=True, help="nano's.")
@click.option("--out", type=click.Path(path_type=Path), required=True)
def main(*, photos: Path, sets: Path, words_of: tuple[Path, ...], checkpoint: Path, out: Path) -> None:
    """Write nano's masks of the nouns in the captions of PHOTOS."""
    names = read_names(sets, words_of)
    nouns = sorted({*names.values(), *SURROUNDINGS})
    model = load_model("nano", checkpoint)
    vectors = dict(zip(nouns, load_prompter(model.config).encode(nouns), strict=True))
    captions: dict[str, list[str]] = defaultdict(list)
    with (photos / "tags.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            captions[row["file"]].append(row["text"])
    for folder in ("images", "labels"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    (out / "names.txt").write_text("\n".join(nouns) + "\n", encoding="utf-8")
    kept = 0
    for image, texts in track(sorted(captions.items()), description="captions"):
        named = named_nouns(texts, names)
        target = out / "labels" / f"{Path(image).stem}.png"
        if not named or target.exists():
            continue
        words = [*named, *(word for word in SURROUNDINGS if word not in named)]
        winners, cosines = photo_cosines(
            model, load_photo(photos / "images" / image), torch.stack([vectors[word] for word in words])
        )
        scale, bias = float(model.head.scale.detach()), float(model.head.bias.detach())
        confidence = 1 / (1 + np.exp(-(scale * cosines + bias)))
        regions = choose(winners, confidence, words=words, named=len(named))
        if not set(named) & regions.keys():
            continue
        labels = np.full(winners.shape, UNSURE, np.uint8)
        for word, region in regions.items():
            labels[region] = nouns.index(word)
        shutil.copy(photos / "images" / image, out / "images")
        Image.fromarray(labels).save(target, optimize=True)
        kept += 1
    click.echo(f"{out}: {kept} photos more of {len(captions)}, {len(nouns)} nouns")


if __name__ == "__main__":
    main()
