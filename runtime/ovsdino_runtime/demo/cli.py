"""The verb ``ovsdino demo``."""

from typing import TYPE_CHECKING

import click

from ovsdino_runtime.base.cli_errors import user_errors
from ovsdino_runtime.cli_options import model_options

if TYPE_CHECKING:
    from ovsdino_runtime.base.options import RuntimeOptions


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: for the whole network.")
@click.option(
    "--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
def demo(model: str, options: "RuntimeOptions", host: str, port: int) -> None:
    """Open a page to try a model on: a photo or the camera, words, and what it sees.

    Photos stay on this machine. Ctrl-C ends it.
    """
    with user_errors("`ovsdino demo`", extra="demo"):
        from ovsdino_runtime.demo.telemetry_off import private_files

        with private_files():
            from ovsdino_runtime.demo.responses import Answers
            from ovsdino_runtime.demo.server import serve
            from ovsdino_runtime.segmenter import Segmenter

            serve(Answers(Segmenter.load(model, options)), host=host, port=port, ready=_say)
    click.echo("stopped")


def _say(address: str) -> None:
    click.echo(f"{address}  (Ctrl-C stops it)")
