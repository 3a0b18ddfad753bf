"""Write results: an overlay to look at, an indexed PNG and JSON to compute with. No file is half written."""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from ovsdino_runtime.errors import OutputError
from ovsdino_runtime.overlay import palette
from ovsdino_runtime.segmentation import Segmentation

Kind = Literal["overlay", "labels", "json"]
SUFFIXES: dict[Kind, str] = {"overlay": "_overlay.png", "labels": "_labels.png", "json": ".json"}


def save_overlay(segmentation: Segmentation, path: str | Path) -> None:
    """Write the photo with its regions and a legend as PNG.

    Raises:
        OutputError: the file cannot be written.
    """
    image = segmentation.overlay()
    _write(Path(path), lambda file: image.save(file, "PNG", compress_level=4))


def save_labels(segmentation: Segmentation, path: str | Path) -> None:
    """Write the labels as PNG: indexed with the overlay's colours, or 16-bit grey for more than 256 classes.

    The value of a pixel is its label: `numpy.asarray(PIL.Image.open(path))` gives them back.

    Raises:
        OutputError: the file cannot be written.
    """
    from PIL import Image

    count = len(segmentation.classes)
    if count > 256:
        image = Image.fromarray(segmentation.labels)
    else:
        image = Image.fromarray(segmentation.labels.astype(np.uint8))
        colours = palette(count, background=segmentation.background is not None)
        image.putpalette(colours.tobytes())
    _write(Path(path), lambda file: image.save(file, "PNG"))


def save_json(segmentation: Segmentation, path: str | Path, *, photo: str = "") -> None:
    """Write what was found as JSON: regions with coverage and mean score, versions, timings.

    Args:
        segmentation: the result.
        path: the file.
        photo: the photo's name, as it is to be recorded.

    Raises:
        OutputError: the file cannot be written.
    """
    height, width = segmentation.labels.shape
    record = {
        "photo": photo,
        "height": height,
        "width": width,
        "model": segmentation.model,
        "classes": segmentation.classes,
        "background": segmentation.background,
        "regions": [
            asdict(region) | {"coverage": round(region.coverage, 6), "score": round(region.score, 4)}
            for region in segmentation.regions()
        ],
        "versions": {"ovsdino": version(), "engine": segmentation.engine},
        "timings_ms": dict(segmentation.timings),
    }
    text = json.dumps(record, indent=2, ensure_ascii=False) + "\n"
    _write(Path(path), lambda file: file.write(text.encode(errors="backslashreplace")))


def version() -> str:
    """Return the installed version of ovsdino; "unknown" in a source tree that is not installed."""
    try:
        return metadata.version("ovsdino")
    except metadata.PackageNotFoundError:
        return "unknown"


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            write(file)
        temporary.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        with suppress(OSError):  # gone already, or its directory never was
            temporary.unlink()
