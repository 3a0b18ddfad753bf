"""Check a command without running it: by our own parser, or by what it names where it is another's."""

import configparser
import inspect
import re
from collections.abc import Callable
from itertools import pairwise
from pkgutil import resolve_name

import click

from ovsdino.cli import main
from tests.docs.pages import ROOT, Command

Check = Callable[[tuple[str, ...]], None]
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg", encoding="utf-8")
EXTRAS = set(SETUP["options.extras_require"])
OURS = {
    line.split("=")[0].strip(): line.split("=")[1].strip()
    for line in SETUP["options.entry_points"]["console_scripts"].splitlines()
    if line.strip()
}
PLACEHOLDER = re.compile(r"\$|^[A-Z]+$")  # a variable, or a name in capitals that stands for the reader's


def our_command(program: str) -> click.Command:
    return main if program == "ovsdino" else resolve_name(OURS[program])


def check_ours(words: tuple[str, ...], *, whole: bool = True) -> None:
    """Parse with the real command; ``whole``: nothing that is required is missing."""
    command, name, arguments, context = our_command(words[0]), words[0], list(words[1:]), None
    try:
        while isinstance(command, click.Group):
            context = command.make_context(name, arguments, parent=context)
            rest = [*getattr(context, "_protected_args", ()), *context.args]  # click 8 keeps the verb apart
            if not rest and command.invoke_without_command:
                return
            name, found, arguments = command.resolve_command(context, rest)
            assert found is not None, f"no command {name}"
            command = found
        command.make_context(name, arguments, parent=context)
    except (click.MissingParameter, click.exceptions.NoArgsIsHelpError):
        if whole:
            raise
    except click.BadOptionUsage as error:
        if whole or "requires an argument" not in error.message:
            raise
    except click.exceptions.Exit:
        return  # it was an option that acts at once


def check_pip(words: tuple[str, ...]) -> None:
    """Every requirement is one; extras of this package exist."""
    from packaging.requirements import Requirement

    assert words[1] in {"install", "download"}, words
    rest = list(words[2:])
    while rest:
        word = rest.pop(0)
        if word in {"-d", "--wheel-dir", "--config-settings"}:
            rest.pop(0)
        elif not word.startswith("-"):
            here, _, extras = word.partition("[")
            if here in {".", "ovsdino"}:
                unknown = {extra.strip() for extra in extras.rstrip("]").split(",")} - {*EXTRAS, ""}
                assert not unknown, f"setup.cfg has no extra {sorted(unknown)}"
            else:
                Requirement(word)


def check_files(words: tuple[str, ...]) -> None:
    """Every file of the repository that is named is there."""
    for word in words[1:]:
        if "/" in word and not PLACEHOLDER.search(word):
            assert (ROOT / word).exists(), f"{word} is not there"


def check_hub(words: tuple[str, ...]) -> None:
    """``hf auth login``, or ``hf upload``: a repository's name, a folder, and the kind of the repository."""
    if words[1:] == ("auth", "login"):
        return
    assert words[1] == "upload"
    assert words[2].count("/") == 1
    assert words[4:] == ("--repo-type", "space")


def check_python(words: tuple[str, ...]) -> None:
    """``python -m venv``, or a script or package of the repository that knows its options."""
    if words[1:3] == ("-m", "venv"):
        return
    name, options = (words[2], words[3:]) if words[1] == "-m" else (words[1], words[2:])
    module = name.replace(".", "/")
    files = (f"{module}/__main__.py", f"{module}.py") if words[1] == "-m" else (name, f"recipes/*/{name}")
    programs = [path for file in files for path in ROOT.glob(file)]
    assert programs, f"{name} is not there"
    source = programs[0].read_text(encoding="utf-8")
    for option in (word for word in options if word.startswith("--")):
        assert f'"{option}"' in source, f"{name} knows no {option}"


def check_torchrun(words: tuple[str, ...]) -> None:
    """Torchrun's own options by its parser, then the command that it starts."""
    from torch.distributed.run import get_args_parser

    found = get_args_parser().parse_args(list(words[1:]))
    check_ours((found.training_script, *found.training_script_args), whole="..." not in words)


def check_docker(words: tuple[str, ...]) -> None:
    """``build`` names a Dockerfile and its arguments; ``run`` ends in what the entry point takes."""
    options, rest = {}, list(words[2:])
    flags = {"--rm", "-it"}
    while rest and rest[0].startswith("-"):
        option = rest.pop(0)
        options.setdefault(option, []).append("" if option in flags else rest.pop(0))
    if words[1] == "build":
        (file,) = options["-f"]
        declared = set(re.findall(r"^ARG (\w+)", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE))
        assert {value.partition("=")[0] for value in options.get("--build-arg", [])} <= declared
        assert rest == ["."]
    else:
        assert words[1] == "run", words
        image, *arguments = rest
        if image.startswith("ovsdino"):
            (entry,) = options.get("--entrypoint", ["ovsdino-run"])
            check_ours((entry, *arguments))
        else:
            assert arguments[:2] == ["sh", "-c"], arguments


def check_tools(words: tuple[str, ...]) -> None:
    """A tool of the four commands that decide, or of the site: .ci/run has it too."""
    assert words[0] in (ROOT / ".ci/run").read_text(encoding="utf-8")
    check_files(words)


def check_curl(words: tuple[str, ...]) -> None:
    """The server's path and fields, and photos that are there."""
    from ovsdino_runtime.serve.app import PATH, make_app
    from ovsdino_runtime.serve.metrics import Metrics
    from ovsdino_runtime.serve.service import Service, ServiceOptions

    form = make_app(Service(None, ServiceOptions(), Metrics())).openapi()["components"]["schemas"]
    (fields,) = (schema["properties"] for name, schema in form.items() if name.startswith("Body"))
    (address,) = (word for word in words if word.startswith("http"))
    assert address in (f"http://127.0.0.1:8080{PATH}", f"https://label.example.org{PATH}")
    for option, value in pairwise(words):
        if option == "-F":
            name, _, given = value.partition("=")
            assert name in fields, f"the server's form has no {name}"
            assert not given.startswith("@") or (ROOT / given[1:]).is_file()


def nothing(words: tuple[str, ...]) -> None:
    """The shell's own, or the system's."""


def check_cvat(words: tuple[str, ...]) -> None:
    """The module has ``create``, which takes the parameters that are given."""
    create = resolve_name(words[words.index("--function-module") + 1] + ":create")
    given = [value.split("=")[0] for option, value in pairwise(words) if option == "-p"]
    assert set(given) <= set(inspect.signature(create).parameters), given


OTHERS: dict[str, Check] = {
    "cd": check_files,
    "cosmic-ray": check_files,
    "cr-rate": nothing,
    "curl": check_curl,
    "cvat-cli": check_cvat,
    "docker": check_docker,
    "hf": check_hub,
    "labelme": check_files,
    "export": nothing,
    "mkdocs": check_tools,
    "mypy": check_tools,
    "openssl": nothing,
    "pip": check_pip,
    "pre-commit": nothing,
    "pytest": check_tools,
    "python": check_python,
    "python3": check_python,
    "ruff": check_tools,
    "source": nothing,
    "sudo": nothing,
    "torchrun": check_torchrun,
}
PROGRAMS = {*OURS, *OTHERS}


def check(command: Command, *, whole: bool = True) -> None:
    """Check a command of whatever kind; an unknown kind is refused."""
    assert command.program in PROGRAMS, f"{command.page}: no check for `{command.program}`: {command.line}"
    if command.program in OURS:
        check_ours(command.words, whole=whole)
    else:
        OTHERS[command.program](command.words)
