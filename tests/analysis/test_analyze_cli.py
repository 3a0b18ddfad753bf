"""The commands as a user meets them: tables, plots, and one line for each mistake."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ovsdino.analysis.encoders import open_encoder
from ovsdino.analysis.photos import centre_square, choose_photos
from ovsdino.analysis.spectrum import log_ratio, radial_energy
from ovsdino.cli import main
from ovsdino_runtime.base.photo import load_photo

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def run(*arguments):
    return CliRunner().invoke(main, ["analyze", *map(str, arguments)])


def table(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def photos(tmp_path):
    """Two photos, one of them in a folder below, and a broken one."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    shutil.copy(EXAMPLES / "cat.png", folder)
    shutil.copy(EXAMPLES / "street.jpg", folder / "more")
    (folder / "broken.jpg").write_bytes(b"no photo")
    (folder / "notes.txt").write_text("no photo either", encoding="utf-8")
    return folder


def test_spectrum_writes_tables_and_plots(photos, tmp_path):
    out = tmp_path / "out"
    result = run("spectrum", photos, "--layers", "2,12", "--out", out, "--device", "cpu", "--batch", 2)
    assert result.exit_code == 0, result.output
    assert "broken.jpg: not a photo, or of a format that Pillow cannot read; " in result.stderr
    assert "convert it to PNG or JPEG; left out\n" in result.stderr
    assert result.stdout.startswith("nano: 2: -")
    names = {"spectrum.csv", "spectrum.png", "log_ratio.csv", "log_ratio.png"}
    assert {path.name for path in out.iterdir()} == names
    assert len(table(out / "spectrum.csv")) == 2 * 16
    rows = table(out / "log_ratio.csv")
    assert [(row["encoder"], row["layer"], row["photos"]) for row in rows] == [
        ("nano", "2", "2"),
        ("nano", "12", "2"),
    ]
    encoder = open_encoder("nano", torch.device("cpu"))
    squares = [centre_square(load_photo(EXAMPLES / name)) for name in ("cat.png", "street.jpg")]
    with torch.inference_mode():
        maps = encoder.layer_maps(encoder.read(squares), (2, 12))
    for row, features in zip(rows, maps, strict=True):
        ratios = log_ratio(radial_energy(features, 16), 0.5)
        assert float(row["log_ratio"]) == pytest.approx(ratios.mean().item(), rel=1e-4)
        assert float(row["deviation"]) == pytest.approx(ratios.std(correction=0).item(), rel=1e-2)
    for name in ("spectrum.png", "log_ratio.png"):
        with Image.open(out / name) as image:
            assert np.asarray(image.convert("RGB")).std() > 10  # something is drawn


def test_cka_of_an_encoder_with_itself(photos, tmp_path):
    out = tmp_path / "out"
    options = ("--first", "nano", "--second", "nano", "--last", 2, "--out", out, "--device", "cpu")
    result = run("cka", photos, *options)
    assert result.exit_code == 0, result.output
    rows = table(out / "cka.csv")
    values = {(row["first_layer"], row["second_layer"]): float(row["cka"]) for row in rows}
    assert values.keys() == {(a, b) for a in ("11", "12") for b in ("11", "12")}
    assert values["11", "11"] == pytest.approx(1, abs=1e-5)
    assert values["12", "11"] == pytest.approx(values["11", "12"], abs=1e-5)
    assert values["12", "11"] < 0.999
    assert (
        "independent noise of the same shapes would give up to 0.109" in result.stdout
    )  # 192 / (1568 + 192)
    with Image.open(out / "cka.png") as image:
        assert np.asarray(image.convert("RGB")).std() > 10


def test_photos_are_found_and_thinned_evenly(photos):
    for number in range(8):
        shutil.copy(photos / "cat.png", photos / f"x{number}.PNG")
    names = [path.name for path in choose_photos(photos)]
    assert names == sorted(names[:2]) + ["street.jpg"] + [f"x{n}.PNG" for n in range(8)]
    assert [path.name for path in choose_photos(photos, 3)] == [names[0], names[3], names[7]]
    assert len(choose_photos(photos, 100)) == 11


def test_the_square_is_the_middle():
    photo = np.arange(5 * 9 * 3, dtype=np.uint8).reshape(5, 9, 3)
    assert (centre_square(photo) == photo[:, 2:7]).all()
    assert (centre_square(photo.transpose(1, 0, 2)) == photo[:, 2:7].transpose(1, 0, 2)).all()


CKA = ("cka", "photos", "--first", "nano")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("spectrum", "nowhere"), "nowhere: no such folder; give one of photos"),
        (("spectrum", "empty"), "empty: no photos in it"),
        (("spectrum", "broken"), "none of the 1 photos could be read"),
        (("spectrum", "photos", "--encoder", "vgg"), "unknown encoder 'vgg'"),
        (("spectrum", "photos", "--layers", "0"), "'0' is not like 2,4,6 or all"),
        (("spectrum", "photos", "--layers", "13"), "nano has blocks 1 to 12, not 13"),
        (("spectrum", "photos", "--bins", "500"), "bins hold no frequency of a 28x28 grid"),
        (("spectrum", "photos", "--cutoff", "1.5"), "cutoff must lie in"),
        (("spectrum", "photos", "--device", "tpu"), "--device tpu: torch cannot compute there"),
        (("spectrum", "photos", "--out", "file"), "file is not a directory; choose another --out"),
        ((*CKA, "--second", "sam_vit_h"), "sam_vit_h needs its weights"),
        ((*CKA, "--second", "nano", "--last", "13"), "nano has 12 blocks, not the last 13"),
    ],
)
def test_a_mistake_gets_one_line(arguments, message, photos, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    shutil.copy(photos / "broken.jpg", tmp_path / "broken")
    (tmp_path / "file").write_text("", encoding="utf-8")
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
    assert "Traceback" not in result.output
    assert not list(tmp_path.rglob("*.csv"))
    assert not (tmp_path / "ovsdino-analysis").exists()
