"""The command ``ovsdino-export``, which calls `ovsdino_export.export.export_bundle`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovsdino_export.engines.cli_options import engine_options, find_target, show_engines
from ovsdino_runtime.base.cli_errors import UserError, user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand, version_option
from ovsdino_runtime.base.cli_photo_options import with_photo_options

if TYPE_CHECKING:
    from ovsdino_runtime.base.photo_options import PhotoOptions
    from ovsdino_runtime.bundle.bundle import Bundle

FILE = click.Path(path_type=Path)


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino-export --model nano --out bundles",
        "ovsdino-export --model nano --checkpoint run/last.safetensors --fp16 --out bundles",
        "ovsdino-export --web page",
    ),
)
@click.option("--model", default="nano", show_default=True, help="A preset, such as nano or ovsdino-vitb14.")
@click.option("--checkpoint", type=FILE, help="Weights of the model.  [default: the packaged ones]")
@click.option(
    "--text-checkpoint", type=FILE, help="Weights of its text encoder.  [default: the packaged ones]"
)
@click.option("--fp16", is_flag=True, help="Add a vision graph in FP16.")
@click.option("--bf16", is_flag=True, help="Add a vision graph in BF16, for TensorRT.")
@click.option("--int8", is_flag=True, help="Add a vision graph with INT8 products, for ONNX Runtime.")
@click.option(
    "--int8-data",
    type=FILE,
    help="With --int8: labelled photos on which INT8 may lose at most a point of mIoU.",
    metavar="FOLDER",
)
@click.option(
    "--out",
    type=FILE,
    default=Path(),
    help="The bundle becomes DIR/NAME.ovs.  [default: here]",
    metavar="DIR",
)
@click.option("--name", metavar="NAME", help="Name of the bundle, for your own weights.  [default: MODEL]")
@click.option(
    "--photos", type=FILE, help="Photos on which the graphs are compared with torch.", metavar="DIR"
)
@with_photo_options
@click.option("--overwrite", is_flag=True, help="Replace an existing bundle.")
@click.option("--inline", is_flag=True, help="Write the fused operators without local functions.")
@click.option(
    "--kernels",
    default="auto",
    show_default=True,
    help="Compile the kernels of --device cuda for these GPUs; auto: sm_75 and sm_80, which newer ones run.",
    metavar="auto|none|SM,...",
)
@click.option(
    "--serve-repository",
    type=FILE,
    help="Write a model repository for Triton Inference Server; with --bundle of an existing bundle.",
    metavar="DIR",
)
@click.option(
    "--web",
    type=FILE,
    help="Write a page that segments photos in the browser; of --bundle, else of the packaged model.",
    metavar="DIR",
)
@click.option(
    "--web-runtime",
    type=FILE,
    help="ONNX Runtime Web for --web without a network: the .tgz of its npm package.",
    metavar="FILE",
)
@engine_options
@version_option("ovsdino-export")
def export(  # noqa: PLR0913 - one argument for each option
    *,
    model: str,
    checkpoint: Path | None,
    text_checkpoint: Path | None,
    fp16: bool,
    bf16: bool,
    int8: bool,
    int8_data: Path | None,
    out: Path,
    name: str | None,
    photos: Path | None,
    overwrite: bool,
    inline: bool,
    kernels: str,
    serve_repository: Path | None,
    web: Path | None,
    web_runtime: Path | None,
    engine: str,
    gpu: str,
    graphs: tuple[str, ...],
    workspace: int | None,
    bundle: Path | None,
    photo_options: PhotoOptions,
) -> None:
    """Export a model to a bundle that runs without torch.

    Every graph is compared with the torch model before anything is written.
    """
    with user_errors("ovsdino-export", extra="export,cpu"):
        if web_runtime is not None and web is None:
            raise UserError("--web-runtime is for a page: add --web DIR")
        if int8_data is not None and not int8:
            raise UserError("--int8-data is for INT8: give --int8 as well")
        own = (checkpoint, text_checkpoint, fp16, bf16, int8, inline, photos, name, serve_repository)
        if web is not None and bundle is None and not any(own):
            bundle = packaged_bundle(model)
        only_engines = bundle is not None and serve_repository is None and web is None
        target = find_target(engine, gpu, only_engines=only_engines, workspace=workspace)
        if target is None and (graphs or workspace):
            raise UserError("--graph and --workspace are for an engine: add --engine")
        clock = Clock()
        if bundle is not None:
            exported = load_bundle(bundle)
        else:
            from ovsdino_export.engines.kernels import parse_gpus
            from ovsdino_export.export import export_bundle
            from ovsdino_export.request import ExportRequest

            request = ExportRequest(
                model=model,
                checkpoint=checkpoint,
                text_checkpoint=text_checkpoint,
                fp16=fp16,
                bf16=bf16,
                int8=int8,
                int8_data=int8_data,
                out=out,
                name=name,
                photos=photos,
                photo_options=photo_options,
                overwrite=overwrite,
                inline=inline,
                kernels=parse_gpus(kernels),
            )
            exported = export_bundle(request, clock)
            show_parity(exported)
            show_files(exported)
        if target is not None:
            show_engines(exported, target, clock, only=graphs)
        if serve_repository is not None:
            show_repository(exported, serve_repository, fp16=fp16, overwrite=overwrite)
        if web is not None:
            show_page(exported, web, runtime=web_runtime, overwrite=overwrite)


def packaged_bundle(model: str) -> Path:
    """Find the bundle of a packaged or kept model; nothing is exported, torch is not needed.

    Raises:
        BundleError: there is no bundle of that name.
    """
    from ovsdino_runtime.bundle.models import find_bundle

    return find_bundle(model)


def load_bundle(path: Path) -> Bundle:
    """Read an existing bundle; torch is not needed.

    Raises:
        BundleError: the bundle is damaged, or is none.
    """
    from ovsdino_runtime.bundle import bundle

    return bundle.load_bundle(path)


def show_page(bundle: Bundle, folder: Path, *, runtime: Path | None, overwrite: bool) -> None:
    """Write a page that runs a bundle in the browser, and print where it is.

    Raises:
        OvsdinoError: the page's engine cannot be fetched, or the folder is taken.
    """
    from ovsdino_export.web.page import write_page

    files = write_page(bundle, folder, runtime=runtime, overwrite=overwrite)
    size = sum(file.stat().st_size for file in files)
    click.echo(f"-> {folder / 'index.html'}: open it in a browser, or copy {folder} to any web server")
    click.echo(f"   {len(files)} files, {size / 2**20:.1f} MiB")


def show_repository(bundle: Bundle, folder: Path, *, fp16: bool, overwrite: bool) -> None:
    """Write a Triton model repository of a bundle, and print its models.

    Raises:
        OvsdinoError: the repository cannot be written.
    """
    from ovsdino_export.serve_repository import write_repository

    for model in write_repository(bundle, folder, fp16=fp16, overwrite=overwrite):
        click.echo(f"-> {model}")


class Clock:
    """Print each step with the seconds since the start."""

    def __init__(self) -> None:
        self.start = time.monotonic()

    def __call__(self, step: str) -> None:
        """Print a step."""
        click.echo(f"[{time.monotonic() - self.start:5.1f} s] {step}")


def show_parity(bundle: Bundle) -> None:
    """Print how close each graph is to the torch model, and the thresholds."""
    click.echo(f"\n{'graph':<12} {'cosine':>22} {'1st percentile':>22} {'same label':>22}")
    for name, figure in bundle.manifest.parity.items():
        minimum = figure.thresholds
        cells = (
            f"{figure.cosine_mean:.6f} (>= {minimum.cosine_mean:g})",
            f"{figure.cosine_p01:.6f} (>= {minimum.cosine_p01:g})",
            f"{figure.label_agreement:.2%} (>= {minimum.label_agreement:.1%})",
        )
        click.echo(f"{name:<12} " + " ".join(f"{cell:>22}" for cell in cells))
    click.echo(f"compared on {bundle.manifest.made_by['parity photos']}")


def show_files(bundle: Bundle) -> None:
    """Print what was written, with sizes."""
    click.echo(f"\n{bundle.path}")
    files = [file for file in sorted(bundle.path.rglob("*")) if file.is_file()]
    sizes: dict[str, int] = {}
    for file in files:  # each folder in one line: kernels are many
        name = file.name if file.parent == bundle.path else f"{file.parent.name}/*{file.suffix}"
        sizes[name] = sizes.get(name, 0) + file.stat().st_size
    for name, size in sizes.items():
        click.echo(f"  {name:<18} {size / 2**20:8.2f} MiB")
    click.echo(f"  {'':<18} {sum(sizes.values()) / 2**20:8.2f} MiB in all")
