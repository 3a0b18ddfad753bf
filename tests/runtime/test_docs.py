"""The code of docs/runtime.md runs."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "runtime.md").read_text(encoding="utf-8")


class Robot:
    """Takes down what it is told, and hears new words once."""

    def __init__(self):
        self.notes, self.halts, self.ways = [], 0, []
        self.heard = ["cat, wall"]

    def note(self, error):
        self.notes.append(str(error))

    def halt(self):
        self.halts += 1

    def drive(self, *, towards):
        self.ways.append(towards)

    def words_heard(self):
        return self.heard.pop() if self.heard else ""


def test_the_robots_loop(tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(code[code.index("stream =") :].splitlines()) == 10
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    pictures = [
        str(ROOT / "examples" / "beach.jpg"),
        str(tmp_path / "torn.jpg"),
        str(ROOT / "examples" / "cat.png"),
    ]
    robot = Robot()
    names = {"robot": robot}
    exec(code.replace('["0"]', repr(pictures)), names)
    assert robot.notes == [f"{tmp_path / 'torn.jpg'}: not a photo, or of a format that Pillow cannot read"]
    assert robot.halts + len(robot.ways) == 2
    cat = robot.ways[-1]  # label 0 of the words that it heard
    assert cat.dtype == np.bool_
    assert cat.mean() > 0.2


def test_every_option_that_is_named_exists():
    from ovsdino_runtime.cli import run

    known = {option for parameter in run.params for option in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z]+", PAGE)) - {"--photos", "--data"}  # soak, recipe
    assert named <= known
    assert "--trace" in named
