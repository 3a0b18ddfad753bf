"""Read NLTK's data files: the part-of-speech tagger and WordNet's nouns.

``nltk.data`` searches only the folders of ``nltk.download`` and, since NLTK 3.9, rejects the older file of
the tagger. The tagger itself is NLTK's.
"""

from __future__ import annotations

import io
import json
import lzma
import pickle
import re
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovsdino.masks.errors import MaskError
from ovsdino.masks.nouns.lexicon import Lexicon, Sense
from ovsdino.masks.nouns.nouns import Tagger

TAGGER, WORDNET = "averaged_perceptron_tagger", "wordnet"
OPEN_WORDNET = "*english*wordnet*.tar.*"  # the archive of Open English WordNet in YAML
Place = Path | zipfile.Path


def search_folders(given: Path | None) -> list[Path]:
    """Return the folders to search for NLTK's data: the given folder, else NLTK's own.

    Raises:
        MaskError: there is no such folder.
    """
    if given is None:
        from nltk import data

        return [Path(folder) for folder in data.path]
    if not given.is_dir():
        raise MaskError(f"{given}: no such folder; give the one that holds NLTK's data")
    return [given]


def open_tagger(folders: Sequence[Path]) -> Tagger:
    """Open NLTK's averaged perceptron tagger for English, from its current or its older file.

    Raises:
        MaskError: no folder contains it, or it is damaged; the message holds the command that downloads it.
    """
    from nltk.tag.perceptron import PerceptronTagger

    tagger = PerceptronTagger(load=False)
    if place := _find(folders, "taggers", f"{TAGGER}_eng"):
        names = [f"{TAGGER}_eng.{part}.json" for part in ("weights", "tagdict", "classes")]
        weights, tags, classes = (json.loads(_read(place / name)) for name in names)
    elif place := _find(folders, "taggers", TAGGER):
        weights, tags, classes = _load_plain(_read(place / f"{TAGGER}.pickle"), place)
    else:
        raise MaskError(_how_to_get(f"{TAGGER}_eng", folders))
    tagger.model.weights, tagger.tagdict = weights, tags
    tagger.classes = tagger.model.classes = set(classes)
    tag: Tagger = tagger.tag
    return tag


def open_lexicon(folders: Sequence[Path], archive: Path | None = None) -> Lexicon:
    """Open WordNet's nouns: an archive of Open English WordNet, or NLTK's corpus.

    Args:
        folders: folders to search for NLTK's data or an archive of Open English WordNet.
        archive: Open English WordNet in YAML; None searches the folders.

    Raises:
        MaskError: there is no WordNet, or it is damaged; the message holds the command that downloads it.
    """
    if archive is not None:
        return read_open_english_wordnet(archive)
    if place := _find(folders, "corpora", WORDNET):
        return read_wordnet(place)
    archives = [file for folder in folders for file in sorted(folder.glob(OPEN_WORDNET))]
    if archives:
        return read_open_english_wordnet(archives[0])
    raise MaskError(_how_to_get(WORDNET, folders))


def read_wordnet(place: Place) -> Lexicon:
    """Read Princeton's files: senses (``index.sense``), plurals (``noun.exc``), synsets (``data.noun``).

    Source: senseidx(5WN), morphy(7WN), wndb(5WN).
    """
    index, plurals, data = (
        _read(place / name).decode("latin-1") for name in ("index.sense", "noun.exc", "data.noun")
    )
    senses = [
        Sense(lemma, file, synset=synset, rank=int(number))
        for lemma, file, synset, number in re.findall(
            r"^([^%\s]+)%1:(\d\d):\S* (\d+) (\d+)", index, re.MULTILINE
        )
    ]
    pairs = [line.split()[:2] for line in plurals.splitlines()]
    above = {
        line[:8]: tuple(re.findall(r" @i? (\d{8}) n", line.partition(" | ")[0]))
        for line in data.splitlines()
        if line[:1].isdigit()
    }
    return Lexicon.from_senses(senses, {form: lemma for form, lemma in pairs if form != lemma}, above)


def read_open_english_wordnet(archive: Path) -> Lexicon:
    """Read an archive of Open English WordNet: senses, irregular plurals and hypernyms of nouns.

    Senses and plurals are in ``entries-*.yaml``, hypernyms in ``noun.*.yaml``.

    Raises:
        MaskError: the archive is missing, damaged, or something else.
    """
    import yaml

    senses: list[Sense] = []
    irregular: dict[str, str] = {}
    above: dict[str, tuple[str, ...]] = {}
    try:
        with tarfile.open(archive) as files:
            for member in files:
                kind = re.search(r"(?:^|/)(entries-\w|noun\.\w+)\.yaml$", member.name)
                if kind is None or not (file := files.extractfile(member)):
                    continue
                text = file.read().decode("utf-8")
                if kind[1].startswith("noun"):
                    above |= _yaml_hypernyms(text)
                else:
                    senses += _yaml_senses(text)
                    irregular |= _yaml_plurals(text)
    except (OSError, EOFError, tarfile.TarError, lzma.LZMAError, ValueError, yaml.YAMLError) as error:
        why = " ".join(str(error).split())[:120]
        raise MaskError(f"{archive}: cannot be read ({why}); get it from https://en-word.net") from error
    if not senses:
        raise MaskError(f"{archive}: no entries-*.yaml in it; expected Open English WordNet in YAML")
    return Lexicon.from_senses(senses, irregular, above)


# Read by patterns, not by a YAML parser, which takes a minute for the whole.


def _yaml_senses(text: str) -> list[Sense]:
    """Parse senses; those of a proper name (Bush) follow those of the noun with the same spelling."""
    pattern = r"^(\S.*):$|^ +(?:- )?id: '?([^%\s']+)%1:(\d\d):.*\n(?: .*\n)*? +synset: (\S+)"
    senses, stop = [], 0
    for place, (entry, lemma, file, synset) in enumerate(re.findall(pattern, text, re.MULTILINE)):
        if entry:
            stop = 0 if entry == entry.lower() else len(text)
        else:
            senses.append(Sense(lemma, file, synset=synset, rank=stop + place))
    return senses


def _yaml_hypernyms(text: str) -> dict[str, tuple[str, ...]]:
    above: dict[str, tuple[str, ...]] = {}
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        lists = re.findall(r"^  (?:instance_)?hypernym:\n((?:  - \S+\n)+)", entry, re.MULTILINE)
        above[entry.partition(":")[0]] = tuple(
            word for items in lists for word in items.split() if word != "-"
        )
    return above


def _yaml_plurals(text: str) -> dict[str, str]:
    import yaml

    plurals: dict[str, str] = {}
    for entry in re.split(r"^(?=\S)", text, flags=re.MULTILINE):
        if "  n:\n    form:\n" in entry:
            for lemma, parts in yaml.load(entry, yaml.CSafeLoader).items():
                plurals |= {form: lemma for form in parts["n"]["form"] if form != lemma}
    return plurals


def _find(folders: Sequence[Path], kind: str, name: str) -> Place | None:
    """Find an NLTK resource as a folder or zip file, in the folder of its kind or directly."""
    for folder in folders:
        for parent in (folder / kind, folder):
            if (parent / name).is_dir():
                return parent / name
            if (packed := parent / f"{name}.zip").is_file():
                try:
                    return zipfile.Path(packed, f"{name}/")
                except zipfile.BadZipFile as error:
                    raise MaskError(f"{packed}: broken zip; delete it, then: {_download(name)}") from error
    return None


def _read(file: Place) -> bytes:
    try:
        return file.read_bytes()
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise MaskError(f"{file}: cannot be read ({error}); get NLTK's data again") from error


class _PlainUnpickler(pickle.Unpickler):  # noqa: S301 - `find_class` allows `set` alone
    """An unpickler for dicts, sets, strings and numbers only. It never runs code."""

    def find_class(self, module: str, name: str) -> Any:  # noqa: ANN401 - the base class's signature
        if (module, name) in {("__builtin__", "set"), ("builtins", "set")}:
            return set
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is no plain data")


def _load_plain(data: bytes, place: Place) -> tuple[dict[str, Any], dict[str, str], set[str]]:
    try:
        weights, tags, classes = _PlainUnpickler(io.BytesIO(data)).load()
    except (pickle.UnpicklingError, ValueError, TypeError, EOFError, AttributeError) as error:
        raise MaskError(f"{place}: not NLTK's tagger ({error}); {_download(f'{TAGGER}_eng')}") from error
    return weights, tags, classes


def _how_to_get(name: str, folders: Sequence[Path]) -> str:
    where = ", ".join(str(folder) for folder in folders[:3]) + (" ..." if len(folders) > 3 else "")
    return f"NLTK's {name} is not in {where}; get it: {_download(name)}, or say where: --nltk-data FOLDER"


def _download(name: str) -> str:
    return f"python -m nltk.downloader {name}"
