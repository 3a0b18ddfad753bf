"""Every command in README and docs is one that its program takes."""

import re

import click
import pytest

from tests.docs.pages import NAMES, named_commands, shell_commands, split
from tests.docs.programs import OURS, PROGRAMS, check
from tests.docs.test_pages_run import PARSED


@pytest.fixture
def parsing(monkeypatch, tmp_path):
    """No file need exist to parse a line, and what a line does at once it does to an empty cache."""
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _parameter, _context: value)
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path))


@pytest.mark.parametrize("page", NAMES)
def test_every_command_parses(page, parsing):
    for command in shell_commands(page):
        check(command)


@pytest.mark.parametrize("page", NAMES)
def test_every_command_that_the_text_names_parses(page, parsing):
    for command in named_commands(page, PROGRAMS):
        check(command, whole=False)


@pytest.mark.parametrize("pattern", PARSED)
def test_every_reason_is_needed(pattern):
    lines = [command.line for page in NAMES for command in shell_commands(page) if command.program in OURS]
    assert any(re.search(pattern, line) for line in lines)


@pytest.mark.parametrize(
    "line",
    [
        "ovsdino-run photo.jpg --clases cat",
        "ovsdino-run photo.jpg --classes cat --engine tensorflow",
        "ovsdino-run photo.jpg --classes cat --background 2",
        "ovsdino segment photo.jpg",
        "ovsdino evaluate --model nano",
        "torchrun --no-python --nproc-per-node 8 ovsdino train --photos p --masks m --out o --bach 3",
        "torchrun --processes 8 ovsdino doctor",
        "pip install '.[gpu]'",
        "python recipes/nano/evaluate_dev.py --dat DATA",
        "python -m tests.fuzz --case 5000",
        "python -m tests.nothing",
        "pytest -m gpu tests/export/test_nothing.py",
        "docker build -f docker/Dockerfile --build-arg ENGIN=tensorrt -t ovsdino .",
        "docker run --rm ovsdino photo.jpg --clases cat",
        "conda install ovsdino",
    ],
)
def test_a_wrong_command_is_found(line, parsing):
    (command,) = split("page", line)
    with pytest.raises((AssertionError, click.ClickException, SystemExit)):
        check(command)
