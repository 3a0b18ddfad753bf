"""The command group: what it lists, what it reaches, and what it says when an extra is missing."""

import sys
from pkgutil import resolve_name

import click
import pytest
from click.testing import CliRunner

from ovsdino.cli import VERBS, Verb, main


def test_help_lists_every_verb_with_its_line():
    text = CliRunner().invoke(main, ["--help"]).output
    for name, verb in VERBS.items():
        assert name in text
        assert verb.help[:40] in text


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_reaches_a_command(name):
    assert isinstance(resolve_name(VERBS[name].target), click.Command)
    result = CliRunner().invoke(main, [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage" in result.output


def test_an_unknown_verb_is_refused():
    result = CliRunner().invoke(main, ["segment"])
    assert result.exit_code == 2
    assert "No such command 'segment'" in result.output


def test_a_missing_extra_is_named_in_one_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "no_such_package", None)
    monkeypatch.setitem(VERBS, "export", Verb("no_such_package.cli:export", "Export.", "export"))
    result = CliRunner().invoke(main, ["export"])
    assert result.exit_code == 2
    assert "pip install '.[export]'" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
