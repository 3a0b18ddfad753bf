"""The command ``ovsdino demo``."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovsdino_runtime.base.cli_errors import UserError, user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand
from ovsdino_runtime.cli_options import model_options

if TYPE_CHECKING:
    from ovsdino_runtime.base.options import RuntimeOptions


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino demo",
        "ovsdino demo --model my.ovs --port 8000",
        "ovsdino demo --space my-space --package 'ovsdino[cpu,demo] @ git+https://github.com/OWNER/ovsdino'",
    ),
)
@model_options
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 accepts requests from other machines."
)
@click.option(
    "--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 chooses a free one."
)
@click.option(
    "--embed-in",
    metavar="ORIGIN",
    help="Site that may show the page in a frame, such as https://example.org.",
)
@click.option(
    "--space",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Serve nothing; write the folder of a Gradio Space for the Hugging Face Hub.",
)
@click.option(
    "--package",
    metavar="REQUIREMENT",
    help="With --space: what pip installs there, such as 'ovsdino[cpu,demo] @ git+https://...'.",
)
def demo(
    *,
    model: str,
    options: "RuntimeOptions",
    host: str,
    port: int,
    embed_in: str | None,
    space: Path | None,
    package: str | None,
) -> None:
    """Serve a web page to try a model: choose a photo or the camera, type class names, see the result.

    Photos stay on this machine. Press Ctrl-C to stop.
    """
    if (space is None) != (package is None):
        raise UserError("--space and --package belong together: a folder, and what pip installs there")
    with user_errors("`ovsdino demo`", extra="demo"):
        if space is not None and package is not None:
            _write_space(space, model, package)
            return
        from ovsdino_runtime.demo.telemetry_off import private_files

        with private_files():
            from ovsdino_runtime.demo.responses import Responder
            from ovsdino_runtime.demo.server import serve
            from ovsdino_runtime.segmenter import Segmenter

            responder = Responder(Segmenter.load(model, options), model=model, options=options)
            serve(responder, host=host, port=port, ready=_say, embed_in=embed_in)
    click.echo("stopped")


def _write_space(folder: Path, model: str, package: str) -> None:
    from ovsdino_runtime.demo.space import write_space

    written = write_space(folder, model=model, package=package)
    click.echo("\n".join(map(str, written)))
    click.echo(f"upload: hf upload OWNER/NAME {folder} --repo-type space")


def _say(address: str) -> None:
    click.echo(f"{address}  (Ctrl-C stops it)")
