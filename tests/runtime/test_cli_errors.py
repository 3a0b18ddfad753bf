"""One line and exit code 2 for what the user can mend; all else passes."""

import errno
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from ovsdino_runtime.base.cli_errors import user_errors
from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.out_folder import check_out


def invoke(error, **options):
    @click.command()
    def command():
        with user_errors("the tool", **options):
            raise error

    return CliRunner().invoke(command)


@pytest.mark.parametrize(
    ("error", "options", "line"),
    [
        (OutputError("x:\n  full"), {}, "x: full"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), {}, "No space left on device: 'a.png'"),
        (
            ModuleNotFoundError(name="ray"),
            {"extra": "cluster"},
            "the tool needs ray, which is not installed: pip install '.[cluster]'",
        ),
        (
            ModuleNotFoundError(name="ray"),
            {"extra": {"ray": "cluster"}.get},
            "the tool needs ray, which is not installed: pip install '.[cluster]'",
        ),
    ],
)
def test_what_can_be_mended_is_one_line(error, options, line):
    result = invoke(error, **options)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert result.stderr.endswith(f"{line}\n")
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("error", [RuntimeError("a fault"), ModuleNotFoundError(name="ours"), TypeError()])
def test_faults_of_the_program_pass(error):
    assert invoke(error).exception is error


def test_a_reader_that_goes_away_is_no_mistake():
    """`ovsdino vocabularies | head -1`: click ends such a command without a word."""
    code = "from ovsdino_runtime.cli import vocabularies; vocabularies()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert process.wait() == 1


def test_an_out_that_can_be_made_is_left_unmade(tmp_path):
    check_out(tmp_path / "a/b")
    check_out(tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_out_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"file/b: .*file is not a directory; choose another --out"):
        check_out(tmp_path / "file/b")

    def closed(**_):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", closed)  # tests may run as root, who may write anywhere
    with pytest.raises(OutputError, match=r"out: cannot be written to: Permission denied; choose another"):
        check_out(tmp_path / "out")
