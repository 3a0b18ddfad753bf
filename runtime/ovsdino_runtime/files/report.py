"""Print the results of ``ovsdino-run`` as they arrive, and set its exit code."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.stream import Result, Stream

MAX_ROWS = 20  # of a table
MAX_SKIPPED = 5  # that are named
MAX_ERRORS = 5  # of one video


@dataclass
class _Tally:
    """Counts of the results of one source."""

    done: int = 0
    errors: int = 0
    files: tuple[Path, ...] = ()
    began: float = 0.0


class ProgressReport:
    """Print each result as it arrives.

    Args:
        sources: number of sources.
        quiet: print errors only.
        before: how many sources are done already, and how many failed; they count for the exit code.
        skipped: files in the folders that are neither photos nor videos.
    """

    def __init__(
        self, sources: int, *, quiet: bool, skipped: Sequence[Path] = (), before: tuple[int, int] = (0, 0)
    ) -> None:
        self._before = before
        self._skipped = skipped
        self._sources = sources
        self._quiet = quiet
        self._tallies: dict[Source, _Tally] = {}
        self._began = self._last = time.monotonic()
        self._live = sys.stderr.isatty() and not quiet

    def follow(self, stream: Stream) -> None:
        """Print all results of a stream; exit with status 2 if a picture failed."""
        last: Source | None = None
        for result in stream:
            if last not in (None, result.frame.source):
                self._end(last)
            last = result.frame.source
            self._add(result)
        self._end(last)
        self._conclude(stream)

    def _add(self, result: Result) -> None:
        source = result.frame.source
        tally = self._tallies.setdefault(source, _Tally(began=self._last))
        if result.segmentation is None:
            tally.errors += 1
            if source.kind != "video" or tally.errors <= MAX_ERRORS:
                self._say(f"Error: {result.error}", err=True)
            return
        tally.done += 1
        tally.files = result.files
        if source.kind == "photo" and not self._quiet:
            self._say(table(result))
        for note in result.notes:
            self._say(f"{source.name}: {note}", err=True)
        self._show(source, tally)

    def _end(self, source: Source | None) -> None:
        """Print the summary of a video or live source."""
        self._last = time.monotonic()
        if source is None or source.kind == "photo" or self._quiet:
            return
        tally = self._tallies[source]
        if not tally.done:
            return
        broken = f"; {tally.errors} errors" if tally.errors else ""
        files = f"\n  -> {', '.join(map(str, tally.files))}" if tally.files else ""
        self._say(f"{source.name}: {_rate(tally.done, tally.began)}{broken}{files}")

    def _conclude(self, stream: Stream) -> None:
        failed = [source for source, tally in self._tallies.items() if not tally.done]
        done = len(self._tallies) - len(failed)
        if failed and done:
            names = ", ".join(source.name for source in failed)
            self._say(f"{done} done, {len(failed)} not: {names}", err=True)
        if self._sources > 1 and done and not self._quiet:
            self._say(_rate(sum(tally.done for tally in self._tallies.values()), self._began), err=True)
        if self._skipped and not self._quiet:
            names = ", ".join(path.name for path in self._skipped[:MAX_SKIPPED])
            more = ", ..." if len(self._skipped) > MAX_SKIPPED else ""
            self._say(f"{len(self._skipped)} not read, neither photo nor video: {names}{more}", err=True)
        if stream.dropped and not self._quiet:
            self._say(f"{stream.dropped} pictures were too old when their turn came", err=True)
        leave(done + self._before[0], len(failed) + self._before[1])

    def _show(self, source: Source, tally: _Tally) -> None:
        """Update the progress line if the output is a terminal."""
        if not self._live:
            return
        if source.kind == "photo":
            place = f"{len(self._tallies)} of {self._sources}"
            rate = _rate(sum(counts.done for counts in self._tallies.values()), self._began)
        else:
            place, rate = source.name, _rate(tally.done, tally.began)
        click.echo(f"\r\x1b[K{place}: {rate}", nl=False, err=True)

    def _say(self, text: str, *, err: bool = False) -> None:
        if self._live:
            click.echo("\r\x1b[K", nl=False, err=True)
        click.echo(text, err=err)


def leave(done: int, failed: int) -> None:
    """Exit with 1 if some of the sources failed, with 2 if all did; return if none did."""
    if failed:
        sys.exit(1 if done else 2)


def table(result: Result) -> str:
    """Format the classes of a photo, the model and engine, and the written files."""
    segmentation = result.segmentation
    assert segmentation is not None
    regions = segmentation.regions(absent=True)
    shown = regions[:MAX_ROWS]
    wide = max((len(region.name) for region in shown), default=0)
    rows = [
        f"  {region.name:{wide}}  {region.coverage:6.1%}  {'#' * round(30 * region.coverage)}".rstrip()
        for region in shown
    ]
    if rest := regions[MAX_ROWS:]:
        missing = sum(region.pixels == 0 for region in rest)
        rows.append(f"  and {len(rest)} more" + (f", {missing} of them not found" if missing else ""))
    height, width = segmentation.labels.shape
    took = sum(segmentation.timings.values()) / 1000
    head = f"{result.frame.source.name} ({width}x{height})"
    engine = f"  {segmentation.model}, {segmentation.engine}, {took:.2f} s"
    return "\n".join([head, *rows, *hints(segmentation), engine, f"  -> {', '.join(map(str, result.files))}"])


def hints(segmentation: Segmentation) -> list[str]:
    """Explain the background of a single class, or warn of a class that may be absent."""
    if segmentation.single:
        threshold = f"{segmentation.background:g}"
        line = f"one class alone: what is less sure than {threshold} is background"
        return [f"  {line} (--background none: every pixel gets the class)"]
    if doubtful := segmentation.doubtful():
        line = f"{doubtful.name!r} may not be there: mean confidence {doubtful.score:.2f}"
        return [f"  {line}, below {segmentation.doubt:g} (try --background-classes surroundings)"]
    return []


def _rate(count: int, began: float) -> str:
    seconds = max(time.monotonic() - began, 1e-3)
    return f"{count} picture{'s' * (count != 1)} in {seconds:.1f} s, {count / seconds:.1f} a second"
