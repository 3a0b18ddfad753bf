"""The folder of a Space: what the Hub reads in it, and that its program starts."""

import os
import re
import subprocess
import sys

import gradio
import httpx
import pytest
from click.testing import CliRunner

from ovsdino.cli import main
from ovsdino_runtime.bundle.bundle import load_bundle
from tests.demo.conftest import ROOT

PACKAGE = "ovsdino[cpu,demo] @ git+https://example.org/ovsdino"


def write(folder, *options):
    return CliRunner().invoke(main, ["demo", "--space", str(folder), "--package", PACKAGE, *options])


def test_the_files_are_what_the_hub_reads(tmp_path):
    done = write(tmp_path / "space")
    assert done.exit_code == 0, done.output
    readme = (tmp_path / "space" / "README.md").read_text(encoding="utf-8")
    front = dict(line.split(": ", 1) for line in readme.split("---\n")[1].splitlines())
    assert (front["sdk"], front["app_file"]) == ("gradio", "app.py")
    assert front["sdk_version"] == gradio.__version__
    assert (tmp_path / "space" / "requirements.txt").read_text() == f"{PACKAGE}\n"


def test_its_program_starts_and_may_be_framed_by_the_hub(tiny_path, tmp_path):
    assert write(tmp_path / "space", "--model", str(tiny_path)).exit_code == 0
    assert load_bundle(tmp_path / "space" / tiny_path.name).manifest.name == "tiny"
    environment = os.environ | {
        "GRADIO_SERVER_PORT": "0",
        "OVSDINO_CACHE": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join(str(ROOT / room) for room in (".", "runtime")),
    }
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "space" / "app.py")],
        env=environment,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        port = re.match(r"http://0\.0\.0\.0:(\d+) ", process.stdout.readline())[1]
        page = httpx.get(f"http://127.0.0.1:{port}", timeout=60)
        assert page.status_code == 200
        assert page.headers["content-security-policy"].endswith(
            "frame-ancestors 'self' https://huggingface.co"
        )
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "a"], "belong together"),
        (["--package", "a"], "belong together"),
        (["--embed-in", "example.org; script-src *"], "is none; expected SCHEME://HOST"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["demo", *options])
    assert (done.exit_code, message in done.output) == (2, True)
    assert not list(tmp_path.iterdir())


def test_a_folder_with_files_is_left_alone(tmp_path):
    (tmp_path / "mine").write_text("")
    assert "not an empty folder" in write(tmp_path).output
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
