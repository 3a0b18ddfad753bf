"""What is installed: every package and data file, the commands, and a wheel that runs without torch."""

import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import import_module
from pathlib import Path

import click
import pytest

ROOT = Path(__file__).resolve().parents[2]
SECOND_COMMAND = "pip install '.[dev]' && pytest"
SETUP_CFG = configparser.ConfigParser()
SETUP_CFG.read(ROOT / "setup.cfg", encoding="utf-8")


def lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


PACKAGES = lines(SETUP_CFG["options"]["packages"])
MOVED = dict(line.replace(" ", "").split("=") for line in lines(SETUP_CFG["options"]["package_dir"]))
FOLDERS = {name: MOVED.get(name, name) for name in PACKAGES if "." not in name}


def test_every_subpackage_is_listed():
    found = {
        ".".join([name, *init.parent.relative_to(ROOT / folder).parts])
        for name, folder in FOLDERS.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }
    assert set(PACKAGES) == found


def test_every_package_is_typed():
    for folder in FOLDERS.values():
        assert (ROOT / folder / "py.typed").is_file()


def test_an_engine_for_a_gpu_brings_what_runs_the_text_graph():
    extras = {name: lines(text) for name, text in SETUP_CFG["options.extras_require"].items()}
    name = re.compile(r"[\w-]+")
    names = {extra: {name.match(line)[0] for line in extras[extra]} for extra in ("cuda", "tensorrt", "rtx")}
    for installed in (names["cuda"], names["tensorrt"], names["rtx"] | names["cuda"]):
        assert "cuda-bindings" in installed
        assert len(installed & {"onnxruntime", "onnxruntime-gpu"}) == 1  # they exclude each other
    assert names["rtx"] == {"tensorrt-rtx"}  # builds engines on a machine without a GPU


def test_every_data_file_is_packaged():
    patterns = {name: lines(text) for name, text in SETUP_CFG["options.package_data"].items()}
    for name, folder in FOLDERS.items():
        base = ROOT / folder
        wanted = patterns.get(name, []) + patterns["*"]
        packaged = {path for pattern in wanted for path in base.glob(pattern) if path.is_file()}
        data = {path for path in base.rglob("*") if path.is_file() and path.suffix not in {".py", ".pyc"}}
        assert data == packaged, sorted(str(path.relative_to(ROOT)) for path in data ^ packaged)


def test_every_console_script_is_a_command():
    for line in lines(SETUP_CFG["options.entry_points"]["console_scripts"]):
        module, attribute = line.partition("=")[2].strip().split(":")
        assert isinstance(getattr(import_module(module), attribute), click.Command)


def test_the_readme_and_continuous_integration_run_the_same_command():
    assert SECOND_COMMAND in lines((ROOT / "README.md").read_text(encoding="utf-8"))
    assert SECOND_COMMAND in lines((ROOT / ".ci/run").read_text(encoding="utf-8"))
    assert os.access(ROOT / ".ci/run", os.X_OK)


def first_command() -> str:
    """The README's first command: install, and label a photo."""
    readme = lines((ROOT / "README.md").read_text(encoding="utf-8"))
    return next(line for line in readme if line.startswith("pip install '.[cpu]' && ovsdino-run "))


def run(*command: str | Path, cwd: Path) -> str:
    """Run a command without our source roots on its path; its output, shown if it fails."""
    environment = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    environment["OVSDINO_CACHE"] = str(cwd / "cache")
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel of a copy of the tree, so that no stale build folder gets into it."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "tree"
    copy.mkdir()
    for name in ("setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, copy)
    for name in FOLDERS.values():
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--outdir", folder, copy, cwd=folder)  # the wheel, by way of the sdist
    return next(folder.glob("*.whl"))


@pytest.mark.slow
def test_the_wheel_holds_the_tree_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tree = {
        f"{name}/{path.relative_to(ROOT / folder).as_posix()}"
        for name, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == tree
    with tarfile.open(next(wheel.parent.glob("*.tar.gz"))) as archive:
        assert any(name.endswith("/LICENSE") for name in archive.getnames())


@pytest.mark.slow
def test_the_wheel_labels_a_photo_without_torch(wheel, tmp_path):
    """A fresh environment, another directory, the packaged model: the README's first command."""
    environment = tmp_path / "environment"
    run(sys.executable, "-m", "venv", environment, cwd=tmp_path)
    scripts = environment / ("Scripts" if os.name == "nt" else "bin")
    run(scripts / "python", "-m", "pip", "install", "--quiet", f"{wheel}[cpu]", cwd=tmp_path)
    no_torch = "import importlib.util as u; assert u.find_spec('torch') is None"
    run(scripts / "python", "-c", no_torch, cwd=tmp_path)

    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    program, *arguments = shlex.split(first_command().split("&&")[1])
    run(scripts / program, *arguments, cwd=tmp_path)
    made = {path.suffix for path in (tmp_path / "ovsdino-out").iterdir()}
    assert {".png", ".json"} <= made
    assert "export" in run(scripts / "ovsdino", "--help", cwd=tmp_path)
