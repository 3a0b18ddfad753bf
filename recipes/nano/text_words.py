"""Stage 1 of the text tower: collect phrases from WordNet, LVIS, captions, class names and templates.

Usage: python recipes/nano/text_words.py --shared SHARED --out WORK
"""

from __future__ import annotations

import json
import random
import re
import tarfile
from collections import Counter
from pathlib import Path

import click
import yaml
from nltk.tokenize import NLTKWordTokenizer
from text_phrases import Phrase, normalise, write_phrases

from ovsdino.masks.nouns.nltk_data import open_tagger
from ovsdino.masks.nouns.nouns import Tagger

FOUND = click.Path(path_type=Path, exists=True)
SEED = 0
PLAIN = re.compile(r"[a-z][a-z' -]{1,34}")


def _words(text: str) -> list[str]:
    return text.split()


# WordNet's files of things that can be seen; the nouns of the others are drawn more rarely.
VISIBLE = _words(
    "Tops animal artifact body food group location object person phenomenon plant shape substance"
)
COLOURS = _words(
    "red green blue yellow orange purple pink brown black white grey gold silver beige dark light"
)
MATERIALS = _words(
    "wooden metal plastic glass stone brick leather paper concrete steel ceramic rubber fabric"
)
STATES = _words(
    "big small large tall short old new young wet dry dirty clean broken empty full open closed round square "
    "long striped spotted painted parked standing sitting flying running sleeping lying hanging folded "
    "little huge"
)
COUNTS = [
    "two",
    "three",
    "four",
    "several",
    "many",
    "some",
    "a pair of",
    "a group of",
    "a bunch of",
    "a pile of",
]
DETERMINERS = frozenset(
    _words("a an the this that his her their its my your some two three four several many")
)


def noun_phrases(tagged: list[tuple[str, str]]) -> list[str]:
    """Return runs of determiner, adjectives and nouns, and pairs of such runs around a preposition.

    >>> noun_phrases([("a", "DT"), ("red", "JJ"), ("bus", "NN"), ("on", "IN"), ("the", "DT"), ("road", "NN")])
    ['a red bus', 'the road', 'a red bus on the road']
    """
    codes = "".join(_code(word, tag) for word, tag in tagged)
    words = [word for word, _ in tagged]
    single = r"D?[JN]*N"
    spans = [match.span() for match in re.finditer(single, codes)]
    spans += [match.span() for match in re.finditer(f"{single}P{single}", codes)]
    return [" ".join(words[start:stop]) for start, stop in spans]


def _code(word: str, tag: str) -> str:
    if not re.fullmatch(r"[a-z][a-z'-]*", word):
        return "."
    if tag in {"DT", "PRP$", "CD"}:
        return "D"
    return "P" if tag == "IN" else {"NN": "N", "JJ": "J"}.get(tag[:2], ".")


def caption_phrases(captions: Path, tag: Tagger) -> list[Phrase]:
    """Return noun phrases of COCO's captions, with and without determiner, weighted by their count's root."""
    split = NLTKWordTokenizer().tokenize
    counts: Counter[str] = Counter()
    for annotation in json.loads(captions.read_text())["annotations"]:
        for phrase in noun_phrases(tag(split(annotation["caption"].lower().strip(" .")))):
            counts[phrase] += 1
            counts[without_determiner(phrase)] += 1
    return [
        Phrase(text, "captions", without_determiner(text), 1 + count**0.5)
        for text, count in counts.items()
        if len(text) > 1
    ]


def without_determiner(phrase: str) -> str:
    """Remove the first word if it is a determiner or a number."""
    first, _, rest = phrase.partition(" ")
    return rest if rest and first in DETERMINERS else phrase


def wordnet_phrases(archive: Path, common: Counter[str]) -> list[Phrase]:
    """Return nouns of Open English WordNet, without long terms and without capitals (names, binomials)."""
    weights: dict[str, float] = {}
    with tarfile.open(archive) as files:
        for member in files:
            match = re.fullmatch(r"src/yaml/noun\.(\w+)\.yaml", member.name)
            file = files.extractfile(member) if match else None
            if match is None or file is None:
                continue
            base = 1.0 if match[1] in VISIBLE else 0.4
            for synset in yaml.load(file, Loader=yaml.CSafeLoader).values():
                for name in synset["members"]:
                    if PLAIN.fullmatch(name) and name.count(" ") < 4:
                        weights[name] = max(weights.get(name, 0.0), base)
    phrases = sorted(weights.items())
    return [Phrase(name, "wordnet", name, base + common[name] ** 0.5) for name, base in phrases]


def lvis_phrases(categories: Path) -> list[Phrase]:
    """Return LVIS names and synonyms, as published and without the text in brackets."""
    names = [name for category in json.loads(categories.read_text()) for name in category["synonyms"]]
    texts = {normalise(name): normalise(name).split(" (")[0] for name in names}
    texts |= {bare: bare for bare in texts.values()}
    return [Phrase(text, "lvis", bare, 1.0) for text, bare in sorted(texts.items())]


def class_phrases(shared: Path) -> list[Phrase]:
    """Return class names of public data sets, their synonyms from prompt engineering, ImageNet's labels."""
    folder = shared / "data/classnames"
    listed = json.loads((folder / "classes.json").read_text()).values()
    groups = [v if isinstance(v, list) else [*v.keys(), *map(str, v.values())] for v in listed]
    names = [name for group in groups for name in group]
    for file in sorted((folder / "fcclip_synonyms").glob("*.txt")):
        names += [line.partition(":")[2] for line in file.read_text().splitlines()]
    names += (shared / "weights/teachers/imagenet_labels.txt").read_text().splitlines()
    texts = sorted({normalise(part) for name in names for part in re.split("[,;]", name)})
    return [Phrase(text, "classes", text, 1.0) for text in texts if re.search("[a-z]{2}", text)]


def filled_templates(templates: Path, cores: list[Phrase], *, count: int, rng: random.Random) -> list[Phrase]:
    """Put random phrases into random prompt templates."""
    known = sorted({text for group in json.loads(templates.read_text()).values() for text in group})
    drawn = rng.choices(cores, [core.weight for core in cores], k=count)
    filled = [(rng.choice(known), core) for core in drawn]
    return [Phrase(normalise(text.format(core.text)), "templates", core.core, 1.0) for text, core in filled]


def combinations(cores: list[Phrase], count: int, rng: random.Random) -> list[Phrase]:
    """Put one or two colours, materials, states or counts before random phrases."""
    made = []
    for core in rng.choices(cores, [core.weight for core in cores], k=count):
        words = rng.choice((COLOURS, MATERIALS, STATES, COUNTS, COLOURS + STATES))
        before = [rng.choice(words)] + ([rng.choice(COLOURS + MATERIALS)] if rng.random() < 0.25 else [])
        made.append(Phrase(normalise(" ".join([*before, core.text])), "combinations", core.core, 1.0))
    return made


def hybrids(words: list[Phrase], count: int, rng: random.Random) -> list[Phrase]:
    """Invent words and compounds from halves of random words, to learn how the teacher embeds unknown words.

    None is withheld, and none is made of a withheld phrase, so what is measured stays as it was.
    """
    trained = [phrase.text for phrase in words if not phrase.withheld]
    made = []
    while len(made) < count:
        first, second = rng.choice(trained), rng.choice(trained)
        if rng.random() < 0.5:
            text = f"{first.split()[0]} {second.split()[-1]}"
        else:
            text = first[: rng.randint(2, max(2, len(first) - 1))] + second[rng.randint(1, len(second) - 1) :]
        invented = Phrase(normalise(text), "hybrids", normalise(text), 1.0)
        if len(invented.text) > 2 and not invented.withheld:
            made.append(invented)
    return made


def without_duplicates(phrases: list[Phrase]) -> list[Phrase]:
    """Remove duplicates; keep the first of equal texts."""
    kept: dict[str, Phrase] = {}
    for phrase in phrases:
        kept.setdefault(phrase.text, phrase)
    return list(kept.values())


def collect(shared: Path) -> list[Phrase]:
    """Collect all phrases; of equal phrases the first source's is kept."""
    words, rng = shared / "weights/words", random.Random(SEED)
    captions = caption_phrases(words / "coco_captions_val2017.json", open_tagger([words]))
    common = Counter({phrase.text: int((phrase.weight - 1) ** 2) for phrase in captions})
    named = class_phrases(shared) + lvis_phrases(words / "lvis_v1_categories.json")
    wordnet = wordnet_phrases(words / "open_english_wordnet_yaml.tar.xz", common)
    frequent = [p for p in captions if p.text == p.core and p.text.count(" ") < 3 and p.weight > 2]
    visible = [p for p in wordnet if p.weight >= 1]
    # Two thirds of what is put into templates are names a user is likely to type.
    weigh = [Phrase(p.text, p.source, p.core, 6.0) for p in named] + frequent
    templates = shared / "data/classnames/templates.json"
    made = filled_templates(templates, weigh, count=70_000, rng=rng) + filled_templates(
        templates, visible, count=30_000, rng=rng
    )
    made += combinations(weigh, 60_000, rng) + combinations(visible, 15_000, rng)
    made += hybrids(wordnet, 200_000, rng)
    return without_duplicates(named + wordnet + captions + made)


@click.command()
@click.option("--shared", type=FOUND, required=True, help="The shared material.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Working folder to write into.")
def main(shared: Path, out: Path) -> None:
    """Write WORK/phrases.jsonl."""
    out.mkdir(parents=True, exist_ok=True)
    phrases = collect(shared)
    write_phrases(out / "phrases.jsonl", phrases)
    totals = Counter(phrase.source for phrase in phrases)
    held = Counter(phrase.source for phrase in phrases if phrase.withheld)
    for source, count in totals.items():
        click.echo(f"{source}: {count} phrases, {held[source]} withheld")


if __name__ == "__main__":
    main()
