"""The verb ``ovsdino demo``."""

from typing import TYPE_CHECKING

import click

from ovsdino_runtime.base.cli_errors import refusing
from ovsdino_runtime.cli_options import model_options

if TYPE_CHECKING:
    from ovsdino_runtime.runtime_options import ModelChoice


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@model_options
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0: for the whole network.")
@click.option(
    "--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one."
)
def demo(choice: "ModelChoice", host: str, port: int) -> None:
    """Open a page to try a model on: a photo or the camera, words, and what it sees.

    Photos stay on this machine. Ctrl-C ends it.
    """
    with refusing("`ovsdino demo`", extra="demo"):
        from ovsdino_runtime.demo.private import private_files

        with private_files():
            from ovsdino_runtime.demo.answers import Answers
            from ovsdino_runtime.demo.server import serve

            serve(Answers(choice.load()), host=host, port=port, ready=_say)
    click.echo("stopped")


def _say(address: str) -> None:
    click.echo(f"{address}  (Ctrl-C stops it)")
