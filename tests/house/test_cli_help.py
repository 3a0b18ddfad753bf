"""The help of every command: options in groups, examples that its parser takes, and ``--version``."""

from pkgutil import resolve_name

import click
import pytest
from click.testing import CliRunner

from ovsdino.cli import VERBS
from ovsdino_runtime.base.cli_help import GROUPS, OTHER, GroupedCommand
from tests.docs.pages import split
from tests.docs.programs import check

PROGRAMS = {
    "ovsdino": "ovsdino.cli:main",
    "ovsdino-run": "ovsdino_runtime.cli:run",
    "ovsdino-export": "ovsdino_export.cli:export",
    "ovsdino-bench": "ovsdino_benchmarks.cli:bench",
}


def commands() -> dict[str, click.Command]:
    """Every command by the words that call it."""
    found: dict[str, click.Command] = {}

    def add(name: str, command: click.Command) -> None:
        if isinstance(command, click.Group):
            for verb, inner in command.commands.items():
                add(f"{name} {verb}", inner)
        else:
            found[name] = command

    for verb, place in VERBS.items():
        add(f"ovsdino {verb}", resolve_name(place.target))
    return found


COMMANDS = commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_in_groups(name):
    command = COMMANDS[name]
    assert isinstance(command, GroupedCommand)
    options = [p for p in command.params if isinstance(p, click.Option) and p.expose_value and not p.hidden]
    lone = [option.name for option in options if command.group_of(option) == OTHER]
    assert len(lone) <= len(options) // 4, f"{lone}: give them a group in base/cli_help.py, GROUPS"
    text = CliRunner().invoke(command, ["--help"]).output
    for group in {command.group_of(option) for option in options}:
        assert f"\n{group}:\n" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_are_what_the_command_takes(name, monkeypatch, tmp_path):
    monkeypatch.setattr(click.Path, "convert", lambda _self, value, _parameter, _context: value)
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path))
    examples = COMMANDS[name].examples
    assert 1 <= len(examples) <= 3
    text = CliRunner().invoke(COMMANDS[name], ["--help"]).output
    for example in examples:
        assert f"  {example}\n" in text
        (command,) = split("help", example.partition(" > ")[0])
        check(command)


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_program_says_its_version(program):
    result = CliRunner().invoke(resolve_name(PROGRAMS[program]), ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith(f"{program}, version ")


def test_an_option_has_one_group():
    names = [name for group in GROUPS.values() for name in group]
    assert sorted(names) == sorted(set(names))


def test_one_idea_has_one_name():
    """An option of the same name is the same thing in every command: it takes the same kind of value."""
    kinds: dict[str, set[str]] = {}
    for command in COMMANDS.values():
        for option in command.params:
            if isinstance(option, click.Option) and option.opts[-1] in (
                "--classes",
                "--vocabulary",
                "--names",
            ):
                kinds.setdefault(option.opts[-1], set()).add(option.type.name)
    assert kinds["--classes"] == kinds["--vocabulary"] == {"text"}
