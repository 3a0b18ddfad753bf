"""`examples/from_labelme.py`: polygons of labelme become a labelled set."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.docs.pages import ROOT


def run(*arguments):
    command = [sys.executable, str(ROOT / "examples" / "from_labelme.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def shape(label, points, kind="polygon"):
    return {"label": label, "points": points, "shape_type": kind}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    Image.new("RGB", (40, 30), "grey").save(folder / "a.png")
    cup = shape("cup", [[10, 10], [14, 14]], "rectangle")
    table = shape("table", [[5, 5], [30, 5], [30, 25], [5, 25]])
    (folder / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": [cup, table]}))
    return folder


@pytest.mark.parametrize(("partial", "elsewhere", "first"), [(False, 0, ["background"]), (True, 255, [])])
def test_the_smaller_thing_lies_on_the_larger_one(photos, tmp_path, partial, elsewhere, first):
    out = tmp_path / "set"
    done = run(photos, out, *["--partial"] * partial)
    assert done.returncode == 0, done.stderr
    names = (out / "names.txt").read_text().split()
    assert names == [*first, "cup", "table"]
    labels = np.asarray(Image.open(out / "labels" / "a.png"))
    assert labels.shape == (30, 40)
    assert labels[0, 0] == elsewhere
    assert names[labels[12, 12]] == "cup"
    assert names[labels[20, 20]] == "table"
    assert (out / "images" / "a.png").read_bytes() == (photos / "a.png").read_bytes()


def test_a_missing_photo_is_one_line_and_nothing_is_written(photos, tmp_path):
    (photos / "b.json").write_text(json.dumps({"imagePath": "b.png", "shapes": []}))
    done = run(photos, tmp_path / "set")
    assert done.returncode != 0
    assert done.stderr.strip().endswith("b.png is missing; put it there")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "set").exists()
