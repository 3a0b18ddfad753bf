"""The model's settings for the web page: manifest, class lists and colours, as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.version import version
from ovsdino_runtime.bundle.bundle import TOKENIZER, Bundle
from ovsdino_runtime.segmenter import SINGLE_CLASS_THRESHOLD
from ovsdino_runtime.text.vocabulary import load_vocabulary, vocabulary_names

CLASSES = (
    "person, animal, building, road, tree, grass, sky, water, sand"  # classes in the form when the page opens
)
SURROUNDINGS = "surroundings"  # packaged list of classes that count as background
COLOURS = 256
GRAPHS = ("vision", "text")
TOKENIZERS = ("BPE", "WordLevel", "WordPiece")  # supported by worker/tokenizer.js


@dataclass(frozen=True)
class GraphFiles:
    """A graph's files in a bundle: the ONNX file and its weights' files."""

    file: str
    weights: tuple[str, ...]


def check_supported(bundle: Bundle) -> None:
    """Reject models that the page cannot run.

    Raises:
        OutputError: the model has a decoder, a projection, or an unsupported tokenizer.
    """
    manifest = bundle.manifest
    if manifest.dinov3seg is not None:
        raise OutputError(
            f"{bundle.path}: a model with a decoder (dinov3.seg) does not run in the browser yet; "
            "`ovsdino demo` shows it"
        )
    if "projection" in manifest.graphs:
        raise OutputError(
            f"{bundle.path}: a model with a projection (Talk2DINO) does not run in the browser yet; "
            "`ovsdino demo` shows it"
        )
    tokenizer = json.loads(bundle.file(TOKENIZER).read_text(encoding="utf-8"))
    if (kind := tokenizer["model"]["type"]) not in TOKENIZERS:
        raise OutputError(
            f"{bundle.path}: its tokenizer is a {kind}, the page knows {', '.join(TOKENIZERS)}; "
            "`ovsdino demo` shows the model"
        )


def graph_files(bundle: Bundle) -> dict[str, GraphFiles]:
    """Return the files of each graph that the page runs."""
    found = {}
    for name in GRAPHS:
        file = bundle.manifest.graphs[name].file
        stem = file.removesuffix(".onnx")
        weights = tuple(w for w in (f"{stem}.data", f"{stem}.safetensors") if w in bundle.manifest.files)
        found[name] = GraphFiles(file, weights)
    return found


def page_settings(bundle: Bundle, grid: tuple[int, int]) -> dict[str, object]:
    """Collect a model's settings for the page's scripts.

    Args:
        bundle: the model.
        grid: height and width of a window's features.
    """
    manifest = bundle.manifest
    refine = manifest.refine
    return {
        "name": manifest.name,
        "version": version(),
        "preprocessing": dataclasses.asdict(manifest.preprocessing),
        "windows": dataclasses.asdict(manifest.windows),
        "head": dataclasses.asdict(manifest.head),
        "refine": None if refine is None else dataclasses.asdict(refine),
        "templates": manifest.templates,
        "text": dataclasses.asdict(manifest.text),
        "graphs": {name: dataclasses.asdict(files) for name, files in graph_files(bundle).items()},
        "grid": grid,
        "single_class": SINGLE_CLASS_THRESHOLD,
        "palette": palette(COLOURS).tolist(),
        "classes": CLASSES,
        "surroundings": SURROUNDINGS,
        "vocabularies": {name: _vocabulary(name) for name in vocabulary_names()},
        "softwareGpu": False,
    }


def _vocabulary(name: str) -> dict[str, object]:
    found = load_vocabulary(name)
    return {"classes": found.classes, "background": found.background}
