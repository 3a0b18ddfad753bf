"""The command ``ovsdino-export``, a skin over `ovsdino_export.export.export_bundle`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ovsdino_runtime.bundle import Bundle

FILE = click.Path(path_type=Path)


class RefusalError(click.ClickException):
    """The user's mistake, in one line."""

    exit_code = 2


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--model", default="nano", show_default=True, help="A preset, such as nano or ovsdino-vitb14.")
@click.option("--checkpoint", type=FILE, help="Weights of the model.  [default: the packaged ones]")
@click.option(
    "--text-checkpoint", type=FILE, help="Weights of its text encoder.  [default: the packaged ones]"
)
@click.option("--fp16", is_flag=True, help="Add a vision graph in FP16.")
@click.option(
    "--out",
    type=FILE,
    default=Path(),
    help="The bundle becomes DIR/MODEL.ovs.  [default: here]",
    metavar="DIR",
)
@click.option(
    "--photos", type=FILE, help="Photos on which the graphs are compared with torch.", metavar="DIR"
)
@click.option("--overwrite", is_flag=True, help="Replace a bundle that is there already.")
def export(
    model: str,
    checkpoint: Path | None,
    text_checkpoint: Path | None,
    fp16: bool,
    out: Path,
    photos: Path | None,
    overwrite: bool,
) -> None:
    """Turn a model into a bundle that runs without torch.

    Every graph is compared with the torch model before anything is written.
    """
    try:
        from ovsdino_export.export import ExportRequest, export_bundle
        from ovsdino_runtime.errors import OvsdinoError
    except ModuleNotFoundError as error:
        raise RefusalError(
            f"ovsdino-export needs {error.name}, which is not installed: pip install 'ovsdino[export,cpu]'"
        ) from error
    request = ExportRequest(model, checkpoint, text_checkpoint, fp16, out, photos, overwrite)
    try:
        bundle = export_bundle(request, Clock())
    except (OvsdinoError, OSError) as error:
        raise RefusalError(" ".join(str(error).split())) from error
    show_parity(bundle)
    show_files(bundle)


class Clock:
    """Prints each step with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, step: str) -> None:
        """Print a step."""
        click.echo(f"[{time.monotonic() - self.start:5.1f} s] {step}")


def show_parity(bundle: Bundle) -> None:
    """Print how close each graph is to the torch model, and how close it had to be."""
    click.echo(f"\n{'graph':<12} {'cosine':>22} {'1st percentile':>22} {'same label':>22}")
    for name, figure in bundle.manifest.parity.items():
        least = figure.thresholds
        cells = (
            f"{figure.cosine_mean:.6f} (>= {least.cosine_mean:g})",
            f"{figure.cosine_p01:.6f} (>= {least.cosine_p01:g})",
            f"{figure.label_agreement:.2%} (>= {least.label_agreement:.1%})",
        )
        click.echo(f"{name:<12} " + " ".join(f"{cell:>22}" for cell in cells))
    click.echo(f"compared on {bundle.manifest.made_by['parity photos']}")


def show_files(bundle: Bundle) -> None:
    """Print what was written, with sizes."""
    click.echo(f"\n{bundle.path}")
    sizes = {file.name: file.stat().st_size for file in sorted(bundle.path.rglob("*")) if file.is_file()}
    for name, size in sizes.items():
        click.echo(f"  {name:<18} {size / 2**20:8.2f} MiB")
    click.echo(f"  {'':<18} {sum(sizes.values()) / 2**20:8.2f} MiB in all")
