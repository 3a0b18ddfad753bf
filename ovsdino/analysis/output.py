"""Write the results of the analyses: tables as CSV, plots as PNG, each atomically."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ovsdino.analysis import plots
from ovsdino.analysis.cka import Similarity
from ovsdino.analysis.spectrum import Spectrum
from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.errors import OutputError


def write_spectra(spectra: Sequence[Spectrum], folder: Path) -> list[Path]:
    """Write ``spectrum.csv`` and ``.png``, ``log_ratio.csv`` and ``.png``; one row per layer and ring."""
    rings = (
        (spectrum.encoder, layer, radius, energy, share)
        for spectrum in spectra
        for layer, energies, shares in zip(spectrum.layers, spectrum.energy, spectrum.shares, strict=True)
        for radius, energy, share in zip(spectrum.options.radii, energies, shares, strict=True)
    )
    ratios = (
        (
            spectrum.encoder,
            layer,
            ratio,
            deviation,
            spectrum.options.cutoff,
            spectrum.options.centred,
            spectrum.photos,
        )
        for spectrum in spectra
        for layer, ratio, deviation in zip(
            spectrum.layers, spectrum.log_ratio, spectrum.deviation, strict=True
        )
    )
    header = ("encoder", "layer", "log_ratio", "deviation", "cutoff", "centred", "photos")
    return [
        _write_table(folder / "spectrum.csv", ("encoder", "layer", "radius", "energy", "share"), rings),
        _write_table(folder / "log_ratio.csv", header, ratios),
        _write(folder / "spectrum.png", lambda file: plots.draw_spectra(spectra, file)),
        _write(folder / "log_ratio.png", lambda file: plots.draw_log_ratios(spectra, file)),
    ]


def write_similarity(similarity: Similarity, folder: Path) -> list[Path]:
    """Write ``cka.csv``, one row per pair of layers, and ``cka.png``."""
    rows = (
        (
            similarity.first,
            first,
            similarity.second,
            second,
            similarity.cka[i, j],
            similarity.chance[i, j],
            similarity.photos,
        )
        for i, first in enumerate(similarity.first_layers)
        for j, second in enumerate(similarity.second_layers)
    )
    header = ("first", "first_layer", "second", "second_layer", "cka", "chance", "photos")
    return [
        _write_table(folder / "cka.csv", header, rows),
        _write(folder / "cka.png", lambda file: plots.draw_similarity(similarity, file)),
    ]


def _write_table(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> Path:
    def write(file: Path) -> None:
        with file.open("w", encoding="utf-8", newline="") as text:
            writer = csv.writer(text)
            writer.writerow(header)
            writer.writerows([_round(cell) for cell in row] for row in rows)

    return _write(path, write)


def _round(cell: object) -> object:
    return f"{cell:.7g}" if isinstance(cell, float) else cell


def _write(path: Path, write: Callable[[Path], None]) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as partial:
            write(partial)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error
    return path
