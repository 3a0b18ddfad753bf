"""Run the cases, count what went wrong, and print each such case with the seed that makes it again."""

import logging
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import ExitStack
from functools import partial
from importlib import import_module
from pathlib import Path
from random import Random
from types import FrameType

import click

HANG_S = 20


class HangError(Exception):
    """A case took too long."""


def _hang(_signal: int, _frame: FrameType | None) -> None:
    raise HangError


@click.command()
@click.option("--cases", type=click.IntRange(1, 1_000_000), default=5000, show_default=True)
@click.option("--seed", type=int, default=1, show_default=True)
@click.option("--only", multiple=True, help="A kind of case; repeat it.  [default: all]")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Begin no case after this time.")
def main(cases: int, seed: int, only: tuple[str, ...], seconds: float | None) -> None:
    """Try bad input of each kind; exit with 1 if one was not handled."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory(prefix="ovsdino-fuzz-") as folder, ExitStack() as stack:
        os.environ["OVSDINO_CACHE"] = str(Path(folder) / "cache")
        from ovsdino_runtime.segmenter import Segmenter
        from tests.fuzz.cases import CASES, bad_request
        from tests.fuzz.hostile import hostile_bundle, no_file
        from tests.fuzz.workspace import Workspace
        from tests.serve.running import running

        workspace = Workspace(Path(folder))
        kinds = CASES | {"hostile": hostile_bundle, "places": no_file}
        import_module("ovsdino.network.checkpoint")  # torch: its import is no hang
        if not only or "requests" in only:
            segmenter = Segmenter.load(workspace.bundle, threads=1)
            kinds["requests"] = partial(bad_request, address=stack.enter_context(running(segmenter)))
        kinds = {name: case for name, case in kinds.items() if not only or name in only}
        click.echo(f"seed {seed}, {cases} cases of {', '.join(kinds)}")
        signal.signal(signal.SIGALRM, _hang)
        done, bad = Counter[str](), Counter[str]()
        end = time.monotonic() + (seconds or float("inf"))
        for number in range(cases):
            if time.monotonic() > end:
                break
            name = list(kinds)[number % len(kinds)]
            wrong = _try(partial(kinds[name], Random(f"{seed} {number}"), workspace))
            done[name] += 1
            if wrong:
                bad[wrong.partition(":")[0]] += 1
                click.echo(f"case {number} of seed {seed}, {name}: {wrong}")
        click.echo(f"done: {dict(done)}; wrong: {dict(bad) or 0}")
    sys.exit(bool(bad))


def _try(case: "partial[str | None]") -> str | None:
    signal.alarm(HANG_S)
    try:
        return case()
    except HangError:
        return f"hang: over {HANG_S} s"
    except Exception:  # noqa: BLE001 - whatever escapes is what is looked for
        return f"traceback: {traceback.format_exc()[-1500:]}"
    finally:
        signal.alarm(0)


if __name__ == "__main__":
    main()
