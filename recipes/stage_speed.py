"""Measure the CPU time of what the runtime does outside the model: files, sizes, windows, merge, refining.

With ``--against CHECKOUT`` two versions are measured in turns, each in a process of its own, so that other
programs on the machine disturb both alike (docs/measurements/2026-12-01-cpu).
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[1]
PHOTO = ROOT / "runtime/ovsdino_runtime/demo/assets/street.jpg"
TEN = "road, car, bus, tree, grass, building, sky, person, sign, sidewalk"
TRIES = 3  # of a stage in a round; the shortest counts
Stage = Callable[[], object]


def stages(folder: Path) -> dict[str, Stage]:
    """Return each stage as a function; the model runs once, here."""
    import numpy as np

    from ovsdino_runtime import Segmenter
    from ovsdino_runtime.files.output import save_json, save_labels, save_overlay

    segmenter = Segmenter.load("nano", threads=1)
    encoded = segmenter.encode(PHOTO)
    result = segmenter.segment(encoded, TEN)
    pipeline, prepared = segmenter.pipeline, encoded.prepared
    refine = replace(pipeline.merge, presence=None)
    merge = replace(refine, refinement=None)
    texts = {
        count: segmenter.encode_text(segmenter.choose(classes).vocabulary)
        for count, classes in ((10, TEN), (171, "coco_stuff171"))
    }
    encode = replace(pipeline.encode_windows, vision=_NoVision(encoded.features[:1]))
    matrix = np.ones((512, 512), np.float32)
    found: dict[str, Stage] = {
        "overlay": lambda: save_overlay(result, folder / "overlay.png"),
        "labels": lambda: save_labels(result, folder / "labels.png"),
        "JSON": lambda: save_json(result, folder / "result.json"),
        "resize": lambda: pipeline.prepare(encoded.photo),
        "windows": lambda: encode(prepared),
        "a product of 512x512 matrices": lambda: matrix @ matrix,
    }
    for count, text in texts.items():
        for name, stage in (("merge", merge), ("merge and refine", refine)):
            found[f"{name}, {count} classes"] = lambda stage=stage, text=text: stage(
                prepared, encoded.features, text, threshold=None
            )
    return found


class _NoVision:
    """An engine that returns the same features at once: what remains is the cutting of windows."""

    def __init__(self, features: object) -> None:
        self.description, self._outputs = "none", {"features": features}

    def run(self, inputs: object) -> dict[str, object]:  # noqa: ARG002
        return self._outputs


def serve() -> None:
    """Measure a round for each line of standard input; write the times [ms] as a line of JSON."""
    with tempfile.TemporaryDirectory() as folder:
        found = stages(Path(folder))
        for stage in found.values():
            stage()
        for _ in sys.stdin:
            print(json.dumps({name: min(_times(stage)) for name, stage in found.items()}), flush=True)


def _times(stage: Stage) -> Iterator[float]:
    for _ in range(TRIES):
        start = time.process_time()
        stage()
        yield 1000 * (time.process_time() - start)


@contextmanager
def version(checkout: Path, opencv: bool) -> Iterator[Callable[[], dict[str, float]]]:
    """Start a process that measures a checkout; yield a function that returns the times of a round."""
    code = "" if opencv else "import sys; sys.modules['cv2'] = None; "
    code += f"import sys; sys.path[:0] = [{str(checkout / 'runtime')!r}, {str(ROOT / 'recipes')!r}]; "
    code += "from stage_speed import serve; serve()"

    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdin
        assert process.stdout
        out, answers = process.stdin, process.stdout

        def measure() -> dict[str, float]:
            out.write("\n")
            out.flush()
            times: dict[str, float] = json.loads(answers.readline())
            return times

        yield measure
        out.close()


@click.command()
@click.option("--against", type=click.Path(path_type=Path, exists=True), help="Another checkout: before.")
@click.option("--rounds", default=9, show_default=True)
@click.option("--no-opencv", is_flag=True, help="Refine with NumPy alone.")
def main(against: Path | None, rounds: int, no_opencv: bool) -> None:
    """Print the median and the least CPU time of each stage, of a photo of 640x480 in one thread."""
    with version(ROOT, not no_opencv) as now, version(against or ROOT, not no_opencv) as before:
        turns = [(before(), now()) for _ in range(rounds)]
    click.echo(f"{'ms, median (least)':32}{'before':>18}{'now':>18}")
    for name in turns[0][0]:
        columns = [[turn[version][name] for turn in turns] for version in (0, 1)]
        cells = [f"{statistics.median(times):.1f} ({min(times):.1f})" for times in columns]
        click.echo(f"{name:32}{cells[0]:>18}{cells[1]:>18}")


if __name__ == "__main__":
    main()
