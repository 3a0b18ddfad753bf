"""Compare inference modes of a bundle on DATA/dev: scores, seams between windows, and time.

Each photo is encoded once; what differs is how windows are merged and whether labels are refined, so that the
ways meet the same features and the same machine.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import click
import numpy as np
from evaluate_dev import BENCHES, FOLDER, read_pairs, words_of

from ovsdino_runtime.bundle.manifest import Manifest
from ovsdino_runtime.geometry.metrics import Counts, count, scores
from ovsdino_runtime.geometry.refine import Refinement
from ovsdino_runtime.geometry.types import Floats, Labels
from ovsdino_runtime.pipelines.host_stages import Merge, Prepared
from ovsdino_runtime.pipelines.pipeline import HostPipeline
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.vocabulary import load_templates

REACH = 1  # [px] of the resized photo on both sides of a window's edge


@dataclass(frozen=True)
class Way:
    """A way to merge windows into labels."""

    taper: float | None = None
    refinement: Refinement | None = None
    both: bool = False  # windows averaged with a look at the whole photo

    def merge(self, manifest: Manifest) -> Merge:
        """Return the stage."""
        windows = replace(manifest.windows, taper=self.taper)
        return Merge(replace(manifest, windows=windows), self.refinement)


WAYS = {
    "windows": Way(),
    "taper 0.25": Way(0.25),
    "taper 0.5": Way(0.5),
    "taper 0.5, both": Way(0.5, both=True),
    "taper 0.5, refined": Way(0.5, Refinement()),
    "taper 0.5, refined, min_area 0": Way(0.5, Refinement(min_area=0)),
    "taper 0.5, refined, both": Way(0.5, Refinement(), both=True),
}


@dataclass
class Tally:
    """Accumulated scores, seams and times of a mode on a set."""

    counts: Counts
    edges: list[float] = field(default_factory=list)  # share of label changes at windows' edges, by photo
    elsewhere: list[float] = field(default_factory=list)
    milliseconds: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Format the figures in one line."""
        figures = scores(self.counts)
        seams = sum(self.edges) / max(sum(self.elsewhere), 1e-9)
        return (
            f"mIoU {100 * figures.miou:5.1f}   boundary {100 * figures.boundary_miou:5.1f}   "
            f"seams {seams:4.2f}   merge {np.median(self.milliseconds):6.1f} ms"
        )


def seam_rates(labels: Labels, prepared: Prepared) -> tuple[float, float]:
    """Return how often neighbouring pixels differ in label: at the edges of windows, and elsewhere."""
    at, other = [], []
    for axis in (0, 1):
        changes = (np.diff(labels.astype(np.int32), axis=axis) != 0).mean(axis=1 - axis)  # (side - 1,)
        side, resized = prepared.size[axis], prepared.resized.shape[axis]
        begins = {(window.top, window.left)[axis] for window in prepared.windows}
        ends = {(w.top + w.height, w.left + w.width)[axis] for w in prepared.windows}
        inner = [edge for edge in begins | ends if 0 < edge < resized]
        place = (np.arange(1, side)) * (resized / side)  # of each change, in the resized photo
        near = np.zeros(side - 1, np.bool_)
        for edge in inner:
            near |= np.abs(place - edge) <= REACH
        at.append(changes[near])
        other.append(changes[~near])
    return tuple(float(np.concatenate(part).mean()) if sum(map(len, part)) else 0.0 for part in (at, other))  # type: ignore[return-value]


def run_ways(
    pipelines: Mapping[bool, HostPipeline], text: Floats, *, photo: Labels, threshold: float | None
) -> dict[str, tuple[Labels, Prepared, float]]:
    """Segment a photo in every mode: labels, the prepared photo, and the time of the merge [ms]."""
    prepared = {both: pipeline.prepare(photo) for both, pipeline in pipelines.items()}
    features = {both: pipeline.encode_windows(prepared[both]) for both, pipeline in pipelines.items()}
    labelled = {}
    for name, way in WAYS.items():
        merge = way.merge(pipelines[False].prepare.manifest)
        start = time.perf_counter()
        labels, _ = merge(prepared[way.both], features[way.both], text, threshold=threshold)
        labelled[name] = labels, prepared[way.both], 1000 * (time.perf_counter() - start)
    return labelled


@click.command()
@click.option("--data", type=FOLDER, required=True)
@click.option("--model", default="nano", show_default=True, help="A packaged model, or the path of a bundle.")
@click.option("--bench", "names", multiple=True, default=("ADE20K-31", "CamVid-11", "VOC20", "VOC21"))
@click.option("--threads", type=int, default=1, show_default=True)
def main(*, data: Path, model: str, names: tuple[str, ...], threads: int) -> None:
    """Print the mIoU, Boundary IoU [%], seams and time of each mode on the sets of DATA/dev."""
    segmenter = Segmenter.load(model, antialias=False, threads=threads, templates=load_templates("name"))
    whole = Segmenter.load(model, antialias=False, threads=threads, inference="both")
    pipelines = {both: s.pipeline for both, s in ((False, segmenter), (True, whole))}
    for name in names:
        bench = BENCHES[name]
        words = words_of(bench, synonyms=False)
        text = segmenter.encode_text(words)
        threshold = segmenter.bundle.manifest.head.background if words.background else None
        tallies = {way: Tally(Counts.zero(len(words.names))) for way in WAYS}
        for photo, truth in read_pairs(bench, data, len(words.names)):
            labelled = run_ways(pipelines, text, photo=photo, threshold=threshold)  # type: ignore[arg-type]
            for way, (labels, prepared, milliseconds) in labelled.items():
                tally = tallies[way]
                tally.counts += count(truth, labels, len(words.names))
                edges, elsewhere = seam_rates(labels, prepared)
                tally.edges.append(edges)
                tally.elsewhere.append(elsewhere)
                tally.milliseconds.append(milliseconds)
        for way, tally in tallies.items():
            click.echo(f"{name:12} {way:32} {tally.line()}")


if __name__ == "__main__":
    main()
