"""The command ``ovsdino analyze``. Only click is imported before the command runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ovsdino.torch_errors import user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand

if TYPE_CHECKING:
    import torch

    from ovsdino.analysis.encoders import Encoder
    from ovsdino.analysis.measure import AnalysisRun

PATH = click.Path(path_type=Path)
ENCODER = "NAME=FILE"
Command = TypeVar("Command", bound=Callable[..., Any])


def _read_layers(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...] | None:
    if value == "all":
        return None
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", value):
        raise click.BadParameter(f"{value!r} is not like 2,4,6 or all")
    return tuple(sorted({int(layer) for layer in value.split(",")}))


def _common(command: Command) -> Command:
    for option in (
        click.option("--out", type=PATH, default="ovsdino-analysis", show_default=True, help="Folder."),
        click.option("--device", help="Where torch computes.  [default: cuda where it is, else cpu]"),
        click.option(
            "--batch", type=click.IntRange(min=1), default=4, show_default=True, help="Photos per batch."
        ),
        click.option("--limit", type=click.IntRange(min=1), help="Largest number of photos, evenly spaced."),
        click.argument("photos", type=PATH),
    ):
        command = option(command)
    return command


@click.group(context_settings=CONTEXT)
def analyze() -> None:
    """Analyse image encoders: spectra of their layers, and CKA between two of them.

    An encoder is NAME=FILE: a preset's backbone (ovsdino-vitb14=dinov2_vitb14_pretrain.pth; nano needs no
    file), sam_vit_b, sam_vit_l or sam_vit_h, or timm/ and the name of a ViT.
    """


@analyze.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino analyze spectrum photos",
        "ovsdino analyze spectrum photos --encoder nano --encoder sam_vit_b=sam_vit_b_01ec64.pth",
    ),
)
@_common
@click.option("--encoder", "encoders", multiple=True, default=("nano",), show_default=True, metavar=ENCODER)
@click.option(
    "--layers", callback=_read_layers, default="all", show_default=True, help="Blocks, such as 2,4,6."
)
@click.option("--bins", default=16, show_default=True, help="Rings of the spectrum.")
@click.option("--cutoff", default=0.5, show_default=True, help="Radius where high frequencies begin.")
@click.option("--centred", is_flag=True, help="Leave out frequency 0.")
def spectrum(photos: Path, encoders: tuple[str, ...], **options: Any) -> None:  # noqa: ANN401 - click's types
    """Radial energy of each layer, and the log-ratio of fine to coarse structure (eq. 3 to 6).

    PHOTOS is a folder. The central square of each photo is read.
    """
    with user_errors("`ovsdino analyze`", extra="analysis", smaller="give a smaller --batch"):
        from ovsdino.analysis.measure import measure_spectra
        from ovsdino.analysis.output import write_spectra
        from ovsdino.analysis.spectrum import SpectrumOptions

        chosen = SpectrumOptions(bins=options["bins"], cutoff=options["cutoff"], centred=options["centred"])
        with _running(photos, options) as run:
            opened = _open(encoders, run.device)
            spectra = measure_spectra(opened, run, layers=options["layers"], options=chosen)
        for result in spectra:
            ratios = zip(result.layers, result.log_ratio, strict=True)
            click.echo(f"{result.encoder}: " + ", ".join(f"{layer}: {ratio:.2f}" for layer, ratio in ratios))
        for file in write_spectra(spectra, options["out"]):
            click.echo(f"-> {file}")


@analyze.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino analyze cka photos --first nano --second sam_vit_b=sam_vit_b_01ec64.pth",),
)
@_common
@click.option("--first", required=True, metavar=ENCODER)
@click.option("--second", required=True, metavar=ENCODER)
@click.option("--last", type=click.IntRange(min=1), default=5, show_default=True, help="Layers of each.")
def cka(photos: Path, first: str, second: str, **options: Any) -> None:  # noqa: ANN401 - click's types
    """Linear CKA between the last layers of two encoders; each cell of a photo is an example.

    PHOTOS is a folder. Both encoders read the central square of each photo.
    """
    with user_errors("`ovsdino analyze`", extra="analysis", smaller="give a smaller --batch"):
        from ovsdino.analysis.measure import measure_similarity
        from ovsdino.analysis.output import write_similarity

        with _running(photos, options) as run:
            left, right = _open((first, second), run.device)
            similarity = measure_similarity(left, right, run, last=options["last"])
        for layer, row in zip(similarity.first_layers, similarity.cka, strict=True):
            click.echo(f"{similarity.first}, layer {layer}: " + ", ".join(f"{value:.3f}" for value in row))
        click.echo(f"independent noise of the same shapes would give up to {similarity.chance.max():.3f}")
        for file in write_similarity(similarity, options["out"]):
            click.echo(f"-> {file}")


def _open(specs: tuple[str, ...], device: torch.device) -> list[Encoder]:
    from ovsdino.analysis.encoders import open_encoder

    return [open_encoder(spec, device) for spec in specs]


@contextmanager
def _running(folder: Path, options: dict[str, Any]) -> Iterator[AnalysisRun]:
    """List the photos, prepare the folder of results, and show progress."""
    from ovsdino.analysis.measure import AnalysisRun
    from ovsdino.analysis.photos import choose_photos
    from ovsdino_runtime.base.out_folder import check_out
    from ovsdino_runtime.base.progress import open_progress

    photos = choose_photos(folder, options["limit"])
    check_out(options["out"])
    device = _choose_device(options["device"])
    with open_progress() as bar:
        task = bar.add_task("photos", total=len(photos))
        yield AnalysisRun(
            photos,
            device,
            options["batch"],
            done=lambda count: bar.advance(task, count),
            warn=lambda text: bar.console.print(text, markup=False, highlight=False, soft_wrap=True),
            partial=options["out"],
        )


def _choose_device(name: str | None) -> torch.device:
    import torch

    from ovsdino.analysis.errors import AnalysisError

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise AnalysisError(
            f"--device {name}: torch cannot compute there ({str(error).splitlines()[0]})"
        ) from error
    return device
