"""The command ``ovsdino serve``. Everything but click is imported when there is something to serve."""

import ipaddress
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
        "ovsdino serve",
        "ovsdino serve --host 0.0.0.0 --port 80 --workers 4 --batch 4",
        "ovsdino serve --model my.ovs --max-classes 200",
    ),
)
@click.option(
    "--host", default="127.0.0.1", show_default=True, help="0.0.0.0 accepts requests from other machines."
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@model_options
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Photos that are segmented at the same time.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Largest number of their windows in one run of the model.",
)
@click.option(
    "--queue",
    type=click.IntRange(min=1),
    default=16,
    show_default=True,
    help="Requests that may wait or be answered at once.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=30,
    show_default=True,
    help="Time limit of a request.",
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True),
    default=20,
    show_default=True,
    help="Largest file.",
)
@click.option(
    "--megapixels",
    type=click.FloatRange(min=0, min_open=True),
    default=25,
    show_default=True,
    help="Largest photo.",
)
@click.option(
    "--max-classes", type=click.IntRange(min=1), default=2000, show_default=True, help="Of a request."
)
@click.option("--access-log", is_flag=True, help="Print a line for each request.")
def serve(  # noqa: PLR0913 - one argument for each option
    host: str,
    port: int,
    model: str,
    options: "RuntimeOptions",
    workers: int,
    batch: int,
    queue: int,
    seconds: float,
    megabytes: float,
    megapixels: float,
    max_classes: int,
    access_log: bool,
) -> None:
    """Segment photos over HTTP: POST /segment, GET /healthz, /metrics and /openapi.json.

    SIGTERM or Ctrl-C stops it after the accepted requests are answered.
    """
    with user_errors("`ovsdino serve`", extra="serve"):
        from ovsdino_runtime.bundle.models import offer_download
        from ovsdino_runtime.engines.threads import available_threads
        from ovsdino_runtime.segmenter import Segmenter
        from ovsdino_runtime.serve.metrics import Metrics
        from ovsdino_runtime.serve.server import Server, listen
        from ovsdino_runtime.serve.service import Service, ServiceOptions
        from ovsdino_runtime.serve.upload import UploadLimits

        if workers > 1 and options.device != "cpu":
            raise UserError(
                f"--workers {workers}: a {options.device} device takes one photo at a time; leave it out"
            )
        if batch > 1 and workers == 1:
            raise UserError(f"--batch {batch}: one worker has one photo's windows; add --workers {batch}")
        door = listen(host, port)
        offer_download(model)
        at_once = 1 if batch > 1 else workers  # runs of the model
        share = options.threads or max(1, available_threads() // at_once)
        segmenter = Segmenter.load(model, replace(options, threads=share))
        limits = UploadLimits(megabytes, megapixels, max_classes)
        service = Service(segmenter, ServiceOptions(workers, batch, queue, seconds, limits), Metrics())
        say = partial(_say, host, door.getsockname()[1], model)
        Server(service, say, access_log=access_log).run([door])


def _say(host: str, port: int, model: str) -> None:
    click.echo(f"{model} on http://{f'[{host}]' if ':' in host else host}:{port}/segment")
    if not _is_loopback(host):
        click.echo("Everyone who reaches this address may use it: there are no passwords.", err=True)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
