"""Draw the plots of the analyses, as PNG."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovsdino.analysis.cka import Similarity
from ovsdino.analysis.spectrum import Spectrum

Axes = Any  # matplotlib.axes.Axes; matplotlib is imported when something is drawn
Figure = Any
PANEL = (4.6, 3.6)  # [inch]
DPI = 150
DARK = 0.6  # a cell above this share of the scale carries white figures
LONGEST_NAME = 48


def draw_spectra(spectra: Sequence[Spectrum], file: Path) -> None:
    """Draw the energy share of each layer against the radius, one panel per encoder, early layers dark."""
    import matplotlib as mpl

    figure = _figure(PANEL[0] * len(spectra), PANEL[1])
    panels = figure.subplots(1, len(spectra), sharey=True, squeeze=False)[0]
    for axes, spectrum in zip(panels, spectra, strict=True):
        colours = mpl.colormaps["viridis"]
        scale = mpl.colors.Normalize(min(spectrum.layers), max(spectrum.layers))
        for layer, shares in zip(spectrum.layers, spectrum.shares, strict=True):
            axes.plot(spectrum.options.radii, shares, color=colours(scale(layer)), linewidth=1.4)
        axes.axvline(spectrum.options.cutoff, color="0.6", linestyle=":", linewidth=1)
        axes.set_yscale("log")
        axes.set_xlim(0, 1)
        axes.set_xlabel("normalised radius r")
        axes.set_title(_title(spectrum), fontsize=9)
        figure.colorbar(mpl.cm.ScalarMappable(scale, colours), ax=axes, label="layer")
    panels[0].set_ylabel("share of the energy, E(r) / sum of E")
    figure.savefig(file)


def draw_log_ratios(spectra: Sequence[Spectrum], file: Path) -> None:
    """Draw the log-ratio of each encoder against the layer, with the deviation over the photos."""
    figure = _figure(PANEL[0] * 1.3, PANEL[1])
    axes = figure.subplots()
    for spectrum in spectra:
        axes.errorbar(
            spectrum.layers,
            spectrum.log_ratio,
            yerr=spectrum.deviation,
            marker="o",
            markersize=4,
            capsize=2,
            linewidth=1.4,
            label=_short(spectrum.encoder),
        )
    axes.set_xlabel("layer")
    axes.set_xticks(sorted({layer for spectrum in spectra for layer in spectrum.layers}))
    axes.set_ylabel(f"log(high / low), cut-off {spectra[0].options.cutoff:g}")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(file)


def draw_similarity(similarity: Similarity, file: Path) -> None:
    """Draw CKA as a heat map with its values."""
    rows, columns = similarity.cka.shape
    figure = _figure(1.6 + 0.75 * columns, 1.2 + 0.6 * rows)
    axes = figure.subplots()
    image = axes.imshow(similarity.cka, vmin=0, vmax=1, cmap="Blues", origin="lower")
    for row in range(rows):
        for column in range(columns):
            value = similarity.cka[row, column]
            ink = "white" if value > DARK else "black"
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", color=ink, fontsize=8)
    axes.set_xticks(range(columns), similarity.second_layers)
    axes.set_yticks(range(rows), similarity.first_layers)
    axes.set_xlabel(f"layer of {_short(similarity.second)}", fontsize=8)
    axes.set_ylabel(f"layer of {_short(similarity.first)}", fontsize=8)
    axes.set_title(f"linear CKA, {similarity.photos} photos, {similarity.examples} places", fontsize=9)
    figure.colorbar(image, ax=axes)
    figure.savefig(file)


def _title(spectrum: Spectrum) -> str:
    grid = "x".join(map(str, spectrum.grid))
    return f"{_short(spectrum.encoder)}\n{spectrum.photos} photos, {grid} grid"


def _short(name: str) -> str:
    """Shorten an encoder's name for a plot."""
    kind, _, path = name.partition("=")
    name = f"{kind}={Path(path).name}" if path else kind
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 3]}..."


def _figure(width: float, height: float) -> Figure:
    from matplotlib import figure

    return figure.Figure(figsize=(width, height), dpi=DPI, layout="constrained")
