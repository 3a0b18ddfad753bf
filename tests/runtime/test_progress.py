"""Progress of long work: a bar in a terminal, lines in a log file."""

import time

import pytest

from ovsdino_runtime.base import progress
from ovsdino_runtime.base.progress import open_progress


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes standard error for a terminal


@pytest.fixture
def log_file(monkeypatch):
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


def test_a_log_file_gets_lines_while_a_step_lasts_and_at_the_end(monkeypatch, capsys, log_file):
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.05)
    with open_progress() as bar:
        task = bar.add_task("masks", total=4)
        bar.advance(task, 3)
        time.sleep(0.3)  # one long step
        during = capsys.readouterr().err
        bar.advance(task, 1)
    lines = [line for line in during.splitlines() if line]
    assert len(lines) >= 2
    assert all(line.startswith("masks 3/4 ") for line in lines)
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("masks 4/4 ")
    assert "\u2501" not in during


def test_short_work_is_one_line_of_a_log_file(capsys, log_file):
    with open_progress() as bar:
        for _ in bar.track(range(3), description="words"):
            pass
    assert capsys.readouterr().err.strip().startswith("words 3/3 ")


def test_a_terminal_gets_a_bar(capsys, terminal):
    with open_progress() as bar:
        for _ in bar.track(range(3), description="words"):
            pass
    assert "\u2501" in capsys.readouterr().err


def test_quiet_shows_nothing(capsys, log_file):
    with open_progress(quiet=True) as bar:
        for _ in bar.track(range(3), description="words"):
            pass
    assert capsys.readouterr().err == ""
