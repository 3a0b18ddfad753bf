"""`ovsdino-run --model NAME` on a machine that does not have it yet."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ovsdino.zoo import cli, store
from ovsdino.zoo.catalogue import ENTRIES, CatalogueEntry, WebFile
from ovsdino_runtime.bundle import models
from ovsdino_runtime.bundle.models import find_bundle, packaged_models
from ovsdino_runtime.cli import run

ROOT = Path(__file__).resolve().parents[2]
PHOTO = next(path for path in sorted((ROOT / "examples").rglob("*")) if path.suffix in {".jpg", ".png"})


def test_where_nobody_can_answer_it_ends_with_one_line(capfd, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as end:
        models.offer_download("talk2dino-vitb14")
    assert end.value.code == 2
    error = capfd.readouterr().err.strip()
    assert error.startswith(
        "Error: talk2dino-vitb14 is not here yet: `ovsdino models prepare talk2dino-vitb14`"
    )
    assert len(error.splitlines()) == 1


def test_a_name_that_nobody_knows_is_left_to_the_runtime(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    arguments = [str(PHOTO), "--classes", "sky", "--model", "nnao", "--out", str(tmp_path / "out")]
    result = CliRunner().invoke(run, arguments)
    assert result.exit_code == 2
    assert "nnao: neither a packaged model nor a bundle" in result.stderr
    assert "`ovsdino models` lists what can be fetched" in result.stderr


@pytest.mark.parametrize("model", ["nano", ".", "a/b", "kept"])
def test_what_is_here_asks_no_other_process(model, monkeypatch):
    shutil.copytree(packaged_models()["nano"], store.bundle_path("kept"))
    monkeypatch.setattr(models, "OVSDINO", ("no-such-program",))
    models.offer_download(model)


def test_a_kept_bundle_is_found_by_name():
    shutil.copytree(packaged_models()["nano"], store.bundle_path("kept"))
    assert find_bundle("kept") == store.bundle_path("kept")
    assert store.bundle_path("kept").parent.name == "models"


@pytest.fixture
def fetched(monkeypatch):
    """A model whose file is there, and an export that writes down what it was asked."""
    monkeypatch.setitem(
        ENTRIES, "thing", CatalogueEntry("a thing", "MIT", (WebFile("https://x.org/thing.pth", 1),))
    )
    store.weights_folder("thing").mkdir(parents=True)
    (store.weights_folder("thing") / "thing.pth").touch()
    asked = store.weights_folder("thing") / "asked"
    code = f"import sys; open({str(asked)!r}, 'w').write(' '.join(sys.argv[1:]))"
    monkeypatch.setattr(cli, "OVSDINO", (sys.executable, "-c", code))
    return asked


def test_prepare_exports_what_is_fetched_to_where_the_runtime_looks(fetched):
    result = CliRunner().invoke(cli.models, ["prepare", "thing"])
    assert result.exit_code == 0, result.output
    folder = store.bundle_path("thing").parent
    assert fetched.read_text() == f"export --model thing --out {folder}"
    assert str(store.bundle_path("thing")) in result.output


def test_an_export_that_fails_is_said(fetched, monkeypatch):
    monkeypatch.setattr(cli, "OVSDINO", (sys.executable, "-c", "raise SystemExit(2)"))
    result = CliRunner().invoke(cli.models, ["prepare", "thing"])
    assert result.exit_code == 2
    assert "thing was fetched but not exported; `ovsdino models prepare thing` tries again" in result.stderr


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 2)])
def test_on_a_terminal_it_asks(fetched, monkeypatch, answer, code):
    class Terminal:
        def isatty(self):
            return True

    monkeypatch.setattr(cli, "sys", type("Sys", (), {"stdin": Terminal(), "stderr": Terminal()}))
    result = CliRunner().invoke(cli.models, ["prepare", "--first-use", "thing"], input=answer)
    assert result.exit_code == code
    assert "licence: MIT" in result.stderr
    assert "exports the files that were fetched" in result.stderr
    assert fetched.exists() == (code == 0)


def test_the_group_knows_both_commands():
    done = subprocess.run(
        [*cli.OVSDINO, "models", "--help"], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr
    for verb in ("fetch", "prepare", "push", "pull"):
        assert verb in done.stdout
