"""The commands ``ovsdino models`` and ``ovsdino convert``. Only click is imported before they run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovsdino_runtime.base.cli_errors import UserError, user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.scratch import scratch_folder

if TYPE_CHECKING:
    from ovsdino.zoo.download import Progress

PATH = click.Path(path_type=Path)
UNKNOWN = 3  # exit code of `prepare --first-use` for a name that is not ours
# The command `ovsdino` of this very installation, whatever PATH holds.
OVSDINO = (sys.executable, "-c", "from ovsdino.cli import main; main(prog_name='ovsdino')")
EXTRAS = "hub,export,cpu"


@click.group(invoke_without_command=True, context_settings=CONTEXT)
@click.pass_context
def models(context: click.Context) -> None:
    """List published models, download them and export them to bundles."""
    if context.invoked_subcommand is None:
        with user_errors():
            show_list()


@models.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino models fetch dinov2-vitb14",),
)
@click.argument("name")
def fetch(name: str) -> None:
    """Download a model's official files to the cache. The same command resumes a partial download."""
    with user_errors("`ovsdino models fetch`", extra="hub"):
        from ovsdino.zoo.fetch import fetch as run

        with progress_bar() as progress:
            folder = run(name, lambda line: click.echo(line, err=True), progress)
        click.echo(f"-> {folder}")


@models.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino models prepare talk2dino-vitb14",),
)
@click.argument("name")
@click.option("--first-use", is_flag=True, hidden=True, help="Ask first; for `ovsdino-run --model NAME`.")
@click.pass_context
def prepare(context: click.Context, name: str, first_use: bool) -> None:
    """Download and export a model, so that `ovsdino-run --model NAME` finds it, from then on offline."""
    from ovsdino.zoo.catalogue import ENTRIES
    from ovsdino.zoo.store import bundle_path

    if first_use and (name not in ENTRIES or not ENTRIES[name].model):
        context.exit(UNKNOWN)
    with user_errors("`ovsdino models prepare`", extra=EXTRAS):
        from ovsdino.zoo.store import find_entry

        if not find_entry(name).model:
            raise UserError(f"{name} is no model; `ovsdino models fetch {name}` fetches it for training")
        if first_use:
            ask(name)
        if not bundle_path(name).exists():
            context.invoke(fetch, name=name)
            export(name)
        click.echo(f"-> {bundle_path(name)}; `ovsdino-run PHOTO --model {name} --classes ...` uses it")


@models.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino models push run me/my-model",
        "ovsdino models push run me/my-model --folder upload",
    ),
)
@click.argument("run", type=PATH)
@click.argument("repo", metavar="OWNER/NAME")
@click.option("--licence", help="The Hub's identifier of the weights' licence.  [default: none is stated]")
@click.option(
    "--bundle",
    type=PATH,
    help="The model's bundle from `ovsdino-export`, so that `--model OWNER/NAME` runs without torch.",
)
@click.option("--private", is_flag=True, help="Create the repository as private, if it is new.")
@click.option("--folder", type=PATH, help="Write the files there instead of uploading them.")
def push(
    *, run: Path, repo: str, licence: str | None, bundle: Path | None, private: bool, folder: Path | None
) -> None:
    """Upload the network of `ovsdino train --out RUN` to the Hub, with a model card from its records."""
    with user_errors("`ovsdino models push`", extra="hub,train"):
        from ovsdino.zoo import repository

        if folder is not None:
            written = repository.write_folder(run, repo, folder, licence=licence, bundle=bundle)
            click.echo(f"-> {written}; nothing was uploaded")
            return
        with scratch_folder("push") as staging:
            upload = staging / "upload"
            written = repository.write_folder(run, repo, upload, licence=licence, bundle=bundle)
            click.echo(f"-> {repository.push(written, repo, private=private)}")


@models.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino models pull me/my-model --out weights.safetensors",),
)
@click.argument("repo", metavar="OWNER/NAME")
@click.option(
    "--out", type=PATH, required=True, metavar="FILE", help="The file to write, such as weights.safetensors."
)
@click.option("--revision", help="A commit, tag or branch.  [default: the newest]")
def pull(repo: str, out: Path, revision: str | None) -> None:
    """Download a network that `ovsdino models push` uploaded."""
    with user_errors("`ovsdino models pull`", extra="hub,train"):
        from ovsdino.zoo.repository import pull as run

        name = run(repo, out, revision=revision)
        click.echo(f"-> {out}\nnext: ovsdino-export --model {name} --checkpoint {out}")


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino convert dinov2_vitb14_pretrain.pth",
        "ovsdino convert sam_vit_b_01ec64.pth --out sam.safetensors",
    ),
)
@click.argument("checkpoint", type=PATH)
@click.option("--out", type=PATH, metavar="FILE", help="[default: beside the checkpoint, *.safetensors]")
def convert(checkpoint: Path, out: Path | None) -> None:
    """Convert an official checkpoint (DINOv2, DINOv3, dino.txt, SAM, CLIP, Talk2DINO) to safetensors.

    Names and values are kept; licence and source are written to the file's metadata.
    """
    with user_errors("`ovsdino convert`", extra="export"):
        from ovsdino.zoo.convert import convert as run

        target, layout = run(checkpoint, out)
        click.echo(f"{checkpoint.name} is {layout.what} ({layout.source}); licence: {layout.licence}")
        click.echo(f"-> {target}")


def show_list() -> None:
    """Print the catalogue: names, sizes, licences, states and addresses."""
    from ovsdino.zoo.catalogue import ENTRIES
    from ovsdino.zoo.fetch import endpoint
    from ovsdino.zoo.store import in_words, state_of, weights_folder

    click.echo(f"{'nano':<25} {'here':<9} {'in the package':<14} ovsdino's own, Apache-2.0")
    for name, entry in ENTRIES.items():
        size = f"about {in_words(entry.size)}"
        click.echo(f"{name:<25} {state_of(name):<9} {size:<14} {entry.what}")
        click.echo(f"{'':<35} licence: {entry.licence}")
        for address in dict.fromkeys(file.address(endpoint()) for file in entry.files):
            click.echo(f"{'':<35} from {address}")
    click.echo(f"\nfiles go to {weights_folder('NAME')}; sizes are computed from the numbers of parameters")
    click.echo("`ovsdino models fetch NAME` fetches, `ovsdino models prepare NAME` also exports")


def ask(name: str) -> None:
    """Ask before a large download; without a terminal, fail with the command to run.

    Raises:
        RefusedError: there is no terminal, or the answer is no.
    """
    from ovsdino.zoo.catalogue import ENTRIES
    from ovsdino.zoo.store import in_words, missing_files

    entry = ENTRIES[name]
    command = f"`ovsdino models prepare {name}` fetches about {in_words(entry.size)} and exports them"
    if not missing_files(name):
        command = f"`ovsdino models prepare {name}` exports the files that were fetched"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UserError(f"{name} is not here yet: {command} ({install_command(EXTRAS)})")
    click.echo(f"{name}: {entry.what}\nlicence: {entry.licence}", err=True)
    if not click.confirm(f"{command}, a bundle of at most that size; do it now?", err=True):
        raise UserError(f"{name} is not here yet: {command}")


def export(name: str) -> None:
    """Export a model to its bundle, in a child process, because this room must not import the exporter.

    Raises:
        RefusedError: the export failed; it has printed the reason.
    """
    from ovsdino.zoo.store import bundle_path

    folder = bundle_path(name).parent
    done = subprocess.run([*OVSDINO, "export", "--model", name, "--out", str(folder)], check=False)
    if done.returncode:
        raise UserError(f"{name} was fetched but not exported; `ovsdino models prepare {name}` tries again")


@contextmanager
def progress_bar() -> Iterator[Progress]:
    """Show the progress of a download, with rich."""
    from rich.progress import BarColumn, DownloadColumn, TimeRemainingColumn, TransferSpeedColumn

    from ovsdino_runtime.base.progress import open_progress

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with open_progress(*columns) as bar:
        task = bar.add_task("fetch", total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)
