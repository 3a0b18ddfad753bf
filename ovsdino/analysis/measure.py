"""Run the analyses over a folder of photos, batch by batch, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ovsdino.analysis.cka import LinearCKA, Similarity, coarser_grid, to_examples
from ovsdino.analysis.encoders import Encoder
from ovsdino.analysis.errors import AnalysisError
from ovsdino.analysis.partial import AnalysisProgress, Partial, Sums, hash_settings
from ovsdino.analysis.photos import read_squares
from ovsdino.analysis.spectrum import Spectrum, SpectrumMean, SpectrumOptions


def _ignore(_: object) -> None:
    """Do nothing."""


@dataclass(frozen=True)
class AnalysisRun:
    """The photos of a run, and the callbacks for progress."""

    photos: Sequence[Path]
    device: torch.device
    batch: int = 4
    done: Callable[[int], None] = _ignore  # told the number of photos of each batch
    warn: Callable[[str], None] = _ignore  # told of photos that cannot be read
    partial: Path | None = None  # folder for what is added up, to go on after an interruption


Pair = tuple[Encoder, tuple[int, ...]]  # an encoder and its 1-based blocks


def measure_spectra(
    encoders: Sequence[Encoder],
    run: AnalysisRun,
    *,
    layers: Sequence[int] | None = None,
    options: SpectrumOptions | None = None,
) -> list[Spectrum]:
    """Measure the mean radial energy and log-ratio of encoders' layers over photos.

    Source: OVS-DINO, eq. 3 to 6.

    Args:
        encoders: the encoders.
        run: the photos.
        layers: 1-based blocks; None uses all.
        options: rings and cut-off.

    Raises:
        AnalysisError: there is no such block, there are too many rings for a grid, or no photo can be read.
    """
    options = options or SpectrumOptions()
    chosen = [encoder.require_layers(layers or range(1, encoder.depth + 1)) for encoder in encoders]
    means = [SpectrumMean(len(blocks), options) for blocks in chosen]

    def add(maps: list[list[Tensor]]) -> None:
        for mean, blocks in zip(means, maps, strict=True):
            mean.add(blocks)

    pairs = list(zip(encoders, chosen, strict=True))
    _go_through(run, pairs, add=add, partial=_partial(run, pairs, sums=means, settings=options))
    return [mean.result(encoder.name, blocks) for mean, (encoder, blocks) in zip(means, pairs, strict=True)]


def measure_similarity(first: Encoder, second: Encoder, run: AnalysisRun, *, last: int = 5) -> Similarity:
    """Measure linear CKA between the last layers of two encoders; every cell of a photo is an example.

    Both see the same square of a photo, each at its own size; maps are averaged over the coarser grid.

    Source: OVS-DINO's comparison of the last five layers of DINO and SAM.

    Args:
        first, second: the encoders.
        run: the photos.
        last: number of last blocks of each.

    Raises:
        AnalysisError: an encoder has fewer blocks, or no photo can be read.
    """
    for encoder in (first, second):
        if last > encoder.depth:
            raise AnalysisError(f"{encoder.name} has {encoder.depth} blocks, not the last {last}")
    pairs = [
        (encoder, tuple(range(encoder.depth - last + 1, encoder.depth + 1))) for encoder in (first, second)
    ]
    sums = LinearCKA()

    def add(maps: list[list[Tensor]]) -> None:
        grid = coarser_grid(maps[0][0], maps[1][0])
        sums.add(to_examples(maps[0], grid), to_examples(maps[1], grid))

    photos = _go_through(run, pairs, add=add, partial=_partial(run, pairs, sums=[sums], settings="cka"))
    (_, first_layers), (_, second_layers) = pairs
    names = first.name, second.name
    return Similarity(*names, first_layers, second_layers, photos, sums.count, sums.result(), sums.chance())


def _partial(run: AnalysisRun, pairs: Sequence[Pair], *, sums: Sequence[Sums], settings: object) -> Partial:
    if run.partial is None:
        return Partial(None, "", sums=sums)
    layers = [(encoder.name, blocks) for encoder, blocks in pairs]
    photos = [(str(photo), photo.stat().st_size) for photo in run.photos]
    key = hash_settings([encoder.module for encoder, _ in pairs], layers, photos, run.batch, settings)
    return Partial(run.partial, key, sums=sums)


def _go_through(
    run: AnalysisRun, pairs: Sequence[Pair], *, add: Callable[[list[list[Tensor]]], None], partial: Partial
) -> int:
    """Call ``add`` with the maps of each batch, by encoder and layer; return the number of photos."""
    before = partial.load()
    seen, start = before.photos, before.batches * run.batch
    run.done(min(start, len(run.photos)))
    batches = read_squares(run.photos[start:], batch=run.batch, warn=run.warn)
    with torch.inference_mode():
        for number, squares in enumerate(batches, start=before.batches):
            if squares:
                add(
                    [
                        encoder.layer_maps(encoder.read(squares).to(run.device), blocks)
                        for encoder, blocks in pairs
                    ]
                )
            seen += len(squares)
            partial.save(AnalysisProgress(number + 1, seen))
            run.done(min(run.batch, len(run.photos) - number * run.batch))
    if not seen:
        raise AnalysisError(f"none of the {len(run.photos)} photos could be read")
    partial.remove()
    return seen
