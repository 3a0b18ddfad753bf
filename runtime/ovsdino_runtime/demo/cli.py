"""The command ``ovsdino demo``."""

from typing import TYPE_CHECKING

import click

from ovsdino_runtime.base.cli_errors import user_errors
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
    ),
)
@model_options
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 accepts requests from other machines."
)
@click.option(
    "--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 chooses a free one."
)
def demo(model: str, options: "RuntimeOptions", host: str, port: int) -> None:
    """Serve a web page to try a model: choose a photo or the camera, type class names, see the result.

    Photos stay on this machine. Press Ctrl-C to stop.
    """
    with user_errors("`ovsdino demo`", extra="demo"):
        from ovsdino_runtime.demo.telemetry_off import private_files

        with private_files():
            from ovsdino_runtime.demo.responses import Responder
            from ovsdino_runtime.demo.server import serve
            from ovsdino_runtime.segmenter import Segmenter

            serve(Responder(Segmenter.load(model, options)), host=host, port=port, ready=_say)
    click.echo("stopped")


def _say(address: str) -> None:
    click.echo(f"{address}  (Ctrl-C stops it)")
