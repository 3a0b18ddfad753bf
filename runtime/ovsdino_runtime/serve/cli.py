"""The command ``ovsdino serve``. Only click is imported before the command runs."""

import ipaddress
import os
from contextlib import suppress
from dataclasses import replace
from functools import partial
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
        "ovsdino serve",
        "ovsdino serve --host 0.0.0.0 --port 80 --workers 4 --batch 4",
        "ovsdino serve --model my.ovs --max-classes 200",
    ),
)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to listen on. 0.0.0.0 is reachable from the network.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=8080, show_default=True)
@model_options
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Number of photos segmented at the same time.",
)
@click.option(
    "--batch",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Largest number of windows in a run of the model.",
)
@click.option(
    "--queue",
    type=click.IntRange(1, 10_000),
    default=16,
    show_default=True,
    help="Largest number of requests that run or wait.",
)
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True, max=86_400),
    default=30,
    show_default=True,
    help="Time limit from a request's first byte to its answer.",
)
@click.option(
    "--megabytes",
    type=click.FloatRange(min=0, min_open=True, max=2000),
    default=20,
    show_default=True,
    help="Largest file of a photo.",
)
@click.option(
    "--megapixels",
    type=click.FloatRange(min=0, min_open=True, max=2000),
    default=25,
    show_default=True,
    help="Largest photo.",
)
@click.option(
    "--max-classes",
    type=click.IntRange(1, 65_535),
    default=2000,
    show_default=True,
    help="Largest number of classes per request; the limit of words is four times as high.",
)
@click.option(
    "--connections-per-client",
    type=click.IntRange(1, 100_000),
    default=64,
    show_default=True,
    help="Largest number of connections per address. Behind a proxy all clients have the proxy's address.",
)
@click.option(
    "--allow-host",
    "hosts",
    multiple=True,
    metavar="NAME",
    help="Host name of requests that are answered; repeat it.  [default: this machine's, with --host of it]",
)
@click.option(
    "--api-key-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with keys, one per line; each request must send one of them.",
)
@click.option(
    "--cors-origin",
    "origins",
    multiple=True,
    metavar="ORIGIN",
    help="Site whose pages may send requests, such as https://example.org, or '*'. May be repeated.",
)
@click.option(
    "--allow-url",
    is_flag=True,
    help="Also accept a photo's address; only public hosts, time limit 10 s.",
)
@click.option(
    "--label-studio",
    metavar="ADDRESS",
    help="Also be a backend of the Label Studio at this address, such as http://localhost:8080; its token is "
    "taken from LABEL_STUDIO_API_KEY.",
)
@click.option(
    "--metrics-port",
    type=click.IntRange(0, 65535),
    help="Serve /metrics on this port instead; 0 switches it off.  [default: the same port]",
)
@click.option("--access-log", is_flag=True, help="Write one line per request.")
def serve(  # noqa: PLR0913 - one argument for each option
    *,
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
    connections_per_client: int,
    hosts: tuple[str, ...],
    api_key_file: Path | None,
    origins: tuple[str, ...],
    allow_url: bool,
    label_studio: str | None,
    metrics_port: int | None,
    access_log: bool,
) -> None:
    """Segment photos over HTTP: POST /segment, GET /healthz, /metrics and /openapi.json.

    SIGTERM or Ctrl-C stops it after the accepted requests are answered.
    """
    with user_errors("`ovsdino serve`", extra="serve"):
        from ovsdino_runtime.bundle.models import offer_download
        from ovsdino_runtime.engines.threads import available_threads
        from ovsdino_runtime.segmenter import Segmenter
        from ovsdino_runtime.serve.access import AccessOptions, default_hosts, read_keys
        from ovsdino_runtime.serve.connections import ConnectionLimits
        from ovsdino_runtime.serve.label_studio import LabelStudioOptions
        from ovsdino_runtime.serve.metrics import Metrics
        from ovsdino_runtime.serve.remote_photo import RemoteOptions
        from ovsdino_runtime.serve.server import Server, listen
        from ovsdino_runtime.serve.service import Service, ServiceOptions
        from ovsdino_runtime.serve.upload import UploadLimits

        if workers > 1 and options.device != "cpu":
            raise UserError(
                f"--workers {workers}: a {options.device} device takes one photo at a time; leave it out"
            )
        if batch > 1 and workers == 1:
            raise UserError(f"--batch {batch}: one worker has one photo's windows; add --workers {batch}")
        access = AccessOptions(
            hosts=hosts or default_hosts(host),
            keys=read_keys(api_key_file) if api_key_file else (),
            origins=origins,
        )
        backend = label_studio and LabelStudioOptions(
            address=label_studio, token=os.environ.get("LABEL_STUDIO_API_KEY", "")
        )
        door = listen(host, port)
        offer_download(model)
        at_once = 1 if batch > 1 else workers  # runs of the model
        share = options.threads or max(1, available_threads() // at_once)
        segmenter = Segmenter.load(model, replace(options, threads=share))
        limits = UploadLimits(
            megabytes=megabytes, megapixels=megapixels, classes=max_classes, words=4 * max_classes
        )
        remote = RemoteOptions() if allow_url else None
        service = Service(
            segmenter,
            ServiceOptions(
                workers=workers, batch=batch, waiting=queue, seconds=seconds, limits=limits, remote=remote
            ),
            Metrics(),
        )
        if metrics_port:
            service.metrics.serve(host, metrics_port)
        say = partial(_say, host, door.getsockname()[1], model, keys=bool(access.keys))
        server = Server(
            service,
            say,
            access_log=access_log,
            connections=ConnectionLimits(per_client=connections_per_client),
            access=access,
            metrics=metrics_port is None,
            label_studio=backend or None,
        )
        server.run([door])


def _say(host: str, port: int, model: str, *, keys: bool) -> None:
    click.echo(f"{model} on http://{f'[{host}]' if ':' in host else host}:{port}/segment")
    if not _is_loopback(host) and not keys:
        click.echo("Everyone who reaches this address may use it; see --api-key-file.", err=True)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
