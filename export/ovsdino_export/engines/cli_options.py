"""The engine options of ``ovsdino-export``. None of them needs torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from ovsdino_runtime.base.cli_errors import UserError

if TYPE_CHECKING:
    from ovsdino_export.engines.build import EngineTarget
    from ovsdino_runtime.bundle.bundle import Bundle
    from ovsdino_runtime.engines.cache import EngineRecord

Command = TypeVar("Command", bound=Callable[..., object])
Report = Callable[[str], None]
NO_ENGINE = "none"


def engine_options(command: Command) -> Command:
    """Add the options to a command: ``engine``, ``gpu``, ``graphs``, ``workspace`` and ``bundle``."""
    options = (
        click.option(
            "--engine",
            type=click.Choice([NO_ENGINE, "tensorrt", "tensorrt-rtx"]),
            default=NO_ENGINE,
            show_default=True,
            help="Also build an engine of the vision graph.",
        ),
        click.option(
            "--gpu",
            default="current",
            show_default=True,
            metavar="current|cuda:N|SM,...",
            help="GPUs of the engine, such as sm_86,sm_89; tensorrt-rtx needs none of them here.",
        ),
        click.option(
            "--graph",
            "graphs",
            multiple=True,
            metavar="NAME",
            help="Build the engine of this graph only, such as vision.fp16; may be repeated.",
        ),
        click.option(
            "--workspace",
            type=click.IntRange(min=1),
            metavar="MIB",
            help="Limit of GPU memory during the build.  [default: all free memory]",
        ),
        click.option(
            "--bundle",
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Build the engine for an existing bundle, without exporting and without torch.",
        ),
        _immediate("--list-engines", _list_engines, "List the engines in the cache, and stop."),
        _immediate("--clear-engines", _clear_engines, "Delete the engines in the cache, and stop."),
    )
    for option in reversed(options):
        command = option(command)
    return command


def _immediate(
    name: str, act: Callable[[click.Context, click.Parameter, bool], None], text: str
) -> Callable[[Command], Command]:
    return click.option(name, is_flag=True, is_eager=True, expose_value=False, callback=act, help=text)


def find_target(
    engine: str, gpu: str, *, only_engines: bool = False, workspace: int | None = None
) -> EngineTarget | None:
    """Return the engine target of the options before any work is done; None for no engine.

    Raises:
        OvsdinoError: the engine cannot be built here.
        RefusedError: the options exclude each other.
    """
    from ovsdino_export.engines.build import choose_target
    from ovsdino_runtime.engines.cache import FLAVOURS

    flavour = next((name for name in FLAVOURS if name == engine), None)
    if flavour is not None:
        return choose_target(flavour, gpu, workspace=workspace)
    if only_engines:
        raise UserError("--bundle builds an engine: say which, with --engine tensorrt or tensorrt-rtx")
    if gpu != "current":
        raise UserError(f"--gpu {gpu} is for an engine: add --engine tensorrt or --engine tensorrt-rtx")
    return None


def show_engines(bundle: Bundle, target: EngineTarget, report: Report, *, only: Sequence[str] = ()) -> None:
    """Build the engines of a bundle, and print them.

    Raises:
        OvsdinoError: an engine cannot be built; the bundle stays as it is.
    """
    from ovsdino_export.engines.build import build_engines

    records = build_engines(bundle, target, report, only=only)
    click.echo("")
    for record in records:
        click.echo(describe_engine(record))


def describe_engine(record: EngineRecord) -> str:
    """Return the description of an engine in one line."""
    key = record.key
    tried = "not tried yet" if record.golden_cosine is None else f"golden {record.golden_cosine:.5f}"
    device = f" {key.gpu}, driver {key.driver}" if key.gpu else ""
    return (
        f"{record.model} {record.graph}  {','.join(key.capabilities)}{device}  {key.flavour} {key.version}  "
        f"batches {'/'.join(map(str, key.batches))}  {record.size / 2**20:.1f} MiB  "
        f"{record.seconds:.0f} s  {tried}"
    )


def _list_engines(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from ovsdino_runtime.engines.cache import engines_dir, list_engines

    records, broken = list_engines()
    for record in records:
        click.echo(describe_engine(record))
    for path in broken:
        click.echo(f"{path}: damaged, or of another version; --clear-engines removes it")
    click.echo(f"{len(records)} engines in {engines_dir()}")
    context.exit()


def _clear_engines(context: click.Context, _option: click.Parameter, value: bool) -> None:
    if not value or context.resilient_parsing:
        return
    from ovsdino_runtime.engines.cache import clear_engines, engines_dir

    try:
        click.echo(f"{clear_engines()} engines deleted from {engines_dir()}")
    except OSError as error:
        raise UserError(f"{engines_dir()}: {error.strerror}; nothing else was deleted") from error
    context.exit()
