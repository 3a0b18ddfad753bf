"""Progress and exit code of ``ovsdino-run --ray``."""

import sys
import time
from collections.abc import Sequence

import click

from ovsdino_runtime.base.cli_errors import UserError, user_errors
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.cluster.folder import FolderJob, segment_on_cluster


def check_options(address: str | None, *, fixed: bool) -> str:
    """Reject options that exclude each other; return the address.

    Args:
        address: value of ``--ray``.
        fixed: whether the classes are given on the command line, and no trace is requested.
    """
    if address is None:
        raise UserError("--workers is for a cluster: give --ray ADDRESS as well, or --ray local")
    if not fixed:
        raise UserError("--ray works in many processes: neither --classes - nor --trace goes with it")
    return address


def share_work(
    job: FolderJob, sources: Sequence[Source], *, address: str, workers: int | None, quiet: bool
) -> None:
    """Print each outcome in the order of the sources; exit with status 2 if any source failed."""
    began, seen, failed = time.monotonic(), 0, []
    with user_errors("`ovsdino-run --ray`", extra="cluster"):
        for outcome in segment_on_cluster(job, sources, address=address, workers=workers):
            seen += 1
            if not outcome.done:
                failed.append(outcome.source.name)
            for error in outcome.errors:
                click.echo(f"Error: {error}", err=True)
            if outcome.text and not quiet:
                click.echo(outcome.text)
    before = len(dict.fromkeys(sources)) - seen
    if not quiet:
        again = f", {before} were done before" if before else ""
        click.echo(f"{seen - len(failed)} done in {time.monotonic() - began:.0f} s{again}", err=True)
    if failed:
        click.echo(f"{len(failed)} not done: {', '.join(failed)}", err=True)
        sys.exit(1 if len(failed) < seen + before else 2)
