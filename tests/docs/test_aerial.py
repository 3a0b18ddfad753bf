"""The commands of the page on aerial scenes, on a smaller scene."""

import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime.cli import run
from tests.docs.pages import ROOT, SHELL, code_blocks

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")

PAGE = "docs/integrations/aerial.md"


@pytest.fixture
def lines(request, tmp_path, monkeypatch):
    """The page's command lines; the working folder holds the drawn scene."""
    width, height = getattr(request, "param", (1600, 1200))
    monkeypatch.chdir(tmp_path)
    blocks = [code for language, code in code_blocks(PAGE) if language in SHELL]
    lines = [shlex.split(line) for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    [draw] = [line for line in lines if line[0] == "python"]
    command = [sys.executable, str(ROOT / draw[1]), *draw[2:], str(width), str(height)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [line[1:] for line in lines if line[0] == "ovsdino-run"]


def invoke(arguments):
    done = CliRunner().invoke(run, [*arguments, "--threads", "1"])
    assert done.exit_code == 0, done.output


def test_the_woods_of_a_scene(lines):
    invoke(lines[0])
    with Image.open("ovsdino-out/scene_labels.png") as image:
        labels = np.asarray(image)
    with rasterio.open("scene.tif") as scene:
        assert (scene.width, scene.height) == (1600, 1200)
        ground = scene.crs.to_epsg(), tuple(scene.bounds)
        green = scene.read(2)
    meta, _, _, fields = pyogrio.raw.read("ovsdino-out/scene.gpkg")
    columns = dict(zip(meta["fields"], fields, strict=True))
    assert rasterio.crs.CRS.from_string(meta["crs"]).to_epsg() == ground[0]
    woods = columns["name"] == "tree"
    assert columns["pixels"][woods].sum() == (labels == 1).sum() > 10_000
    assert columns["area_m2"][woods].sum() == pytest.approx((labels == 1).sum() * 0.25)
    assert green[labels == 1].mean() < green[labels == 0].mean() - 20  # woods are the dark parts
    with Image.open("ovsdino-out/scene_overlay.png") as overlay:
        assert overlay.width == 1600


@pytest.mark.parametrize("lines", [(800, 600)], indirect=True)
def test_the_same_by_windows(lines, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 200_000)
    Path("scene.tif").rename("large.tif")
    invoke(lines[1])
    assert {path.name for path in Path("ovsdino-out").iterdir()} == {
        "large_labels.tif",
        "large_overlay.png",
        "large.gpkg",
    }
    with rasterio.open("large.tif") as scene, rasterio.open("ovsdino-out/large_labels.tif") as labels:
        assert labels.bounds == scene.bounds
        assert labels.crs == scene.crs
