"""Time the exported page beside the runtime: `python -m tests.web.speed`, which needs Chromium and npm.

Both run in one thread, from the photo's file to the labels. Each photo is segmented twice; the second time
counts.
"""

import tempfile
import time
from functools import partial
from pathlib import Path

import click

from ovsdino_export.web.page import write_page
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import packaged_models
from ovsdino_runtime.segmenter import Segmenter
from tests.demo.browser import chromium
from tests.demo.conftest import ROOT
from tests.web.browser import Visit
from tests.web.test_browser import PHOTOS


def seconds(action) -> float:
    """Wall time of a call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def main() -> None:
    """Print a Markdown table of seconds for each photo."""
    with (
        tempfile.TemporaryDirectory() as temporary,
        chromium() as browser,
        Segmenter.load("nano", threads=1) as segmenter,
    ):
        folder = Path(temporary) / "page"
        write_page(load_bundle(packaged_models()["nano"]), folder)
        visit = Visit(browser, folder.as_uri())
        rows = {}
        for _ in range(2):  # the first round loads the model
            for name, classes in PHOTOS.items():
                photo = ROOT / "examples" / name
                rows[name] = (
                    seconds(partial(visit.segment, photo, classes)),
                    seconds(partial(segmenter, photo, classes)),
                )
        visit.close()
    click.echo("| photo | browser | runtime |\n|---|---|---|")
    for name, (in_browser, in_runtime) in rows.items():
        click.echo(f"| {name} | {in_browser:.1f} s | {in_runtime:.2f} s |")


if __name__ == "__main__":
    main()
