"""Stage 6 of the text tower: measure it on phrases withheld from training.

Usage: python recipes/nano/text_evaluate.py --work WORK --out OUT
"""

from __future__ import annotations

import json
from pathlib import Path

import click
import numpy as np
from text_bank import PhraseEncoder
from text_phrases import WITHHELD_PERCENT, Phrase, read_phrases

FOUND = click.Path(path_type=Path, exists=True)
WANTED = {"automobile": "car", "puppy": "dog", "couch": "sofa"}
# Names that mean the asked word itself: the question is which other name is nearest.
SAME = {"puppy": {"puppy"}}
SPLIT = f"""\
A phrase is withheld where the first 8 hex digits of sha256 of its text, or of its core (the phrase without
determiner, template or adjective put around it), are < {WITHHELD_PERCENT} modulo 100. Class names of public
data sets (source 'classes') are always trained. Nearest neighbours are looked up among the 1,203 LVIS names,
the teacher's phrase among the teacher's names and the student's among the student's; a name equal to the
phrase is left out.""".replace("\n", " ")


def nearest(phrases: list[str], embeddings: np.ndarray, *, names: list[str], bank: np.ndarray) -> np.ndarray:
    """Return the index of each phrase's most similar name other than itself."""
    similar = embeddings @ bank.T  # (N, 1203)
    place = {name: index for index, name in enumerate(names)}
    for row, phrase in enumerate(phrases):
        if phrase in place:
            similar[row, place[phrase]] = -2
    return similar.argmax(1)


def centred(embeddings: np.ndarray, centre: np.ndarray) -> np.ndarray:
    """Subtract the centre and normalise to unit length."""
    moved = embeddings - centre
    return moved / np.linalg.norm(moved, axis=1, keepdims=True)


def measure(encoder: PhraseEncoder, work: Path) -> dict[str, dict[str, float]]:
    """Compare with the teacher, per source and over all withheld phrases."""
    phrases = read_phrases(work / "phrases.jsonl")
    chosen = [i for i, phrase in enumerate(phrases) if phrase.withheld]
    texts = [phrases[i].text for i in chosen]
    names = (work / "bank.txt").read_text().splitlines()
    wanted = np.load(work / "targets.npy", mmap_mode="r")[chosen].astype(np.float32)
    centre, bank = encoder.tower.centre.numpy(), np.load(work / "bank.npy")
    given, given_bank = encoder.embed(texts, raw=True), encoder.embed(names, raw=True)
    columns = {}
    for prefix in ("", "centred_"):
        columns[f"{prefix}cosine"] = (given * wanted).sum(1)
        same = nearest(texts, given, names=names, bank=given_bank) == nearest(
            texts, wanted, names=names, bank=bank
        )
        columns[f"{prefix}neighbour"] = same
        given, wanted, given_bank, bank = (centred(x, centre) for x in (given, wanted, given_bank, bank))
    table: dict[str, dict[str, float]] = {}
    for group, rows in groups([phrases[i] for i in chosen]).items():
        means = {key: round(float(values[rows].mean()), 4) for key, values in columns.items()}
        table[group] = {"phrases": int(rows.sum()), **means}
    return table


def groups(phrases: list[Phrase]) -> dict[str, np.ndarray]:
    """Return the rows of each source, of templated phrases with and without trained core, and of all."""
    sources = np.array([phrase.source for phrase in phrases])
    unseen = np.array([Phrase(p.core, "wordnet", p.core, 1.0).withheld for p in phrases])
    masks = {source: sources == source for source in dict.fromkeys(sources.tolist())}
    templates = sources == "templates"
    masks |= {"templates, core trained": templates & ~unseen, "templates, core withheld": templates & unseen}
    return masks | {"all": np.ones(len(phrases), bool)}


def neighbours(encoder: PhraseEncoder, names: list[str]) -> dict[str, str]:
    """Return the name nearest to each word of `WANTED`, in the vision head's centred space."""
    bank = encoder.embed(names)
    result = {}
    for word, similar in zip(WANTED, encoder.embed(list(WANTED)) @ bank.T, strict=True):
        ranked = (names[index] for index in similar.argsort()[::-1])
        result[word] = next(name for name in ranked if name not in SAME.get(word, ()))
    return result


@click.command()
@click.option("--work", type=FOUND, required=True, help="Folder of stages 1, 2 and 4.")
@click.option("--out", type=FOUND, required=True, help="Folder of the tower.")
def main(work: Path, out: Path) -> None:
    """Write OUT/metrics.json and print it."""
    encoder = PhraseEncoder(out)
    metrics = {
        "split": SPLIT,
        "parameters": sum(p.numel() for p in encoder.tower.parameters()),
        "weights_bytes": (out / "nano-text.safetensors").stat().st_size,
        "tokenizer_bytes": (out / "nano-tokenizer.json").stat().st_size,
        "withheld": measure(encoder, work),
        "nearest": neighbours(encoder, (work / "bank.txt").read_text().splitlines()),
    }
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1) + "\n")
    click.echo(json.dumps(metrics, indent=1))


if __name__ == "__main__":
    main()
