"""Progress of long work, with rich: a bar in a terminal, a line a minute in a log file."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

LINE_EVERY_S = 60.0
LINE_WIDTH = 200  # [characters]; a log file has no width of its own


@contextmanager
def open_progress(
    *columns: "ProgressColumn", quiet: bool = False, speed_period: float = 120
) -> "Iterator[Progress]":
    """Show the progress of tasks on standard error until the block ends.

    In a terminal it is a bar. Elsewhere, such as in a log file, it is a line a minute without the bar, and
    one at the end.

    Args:
        columns: what is shown of each task; none shows its name, count, and times.
        quiet: show nothing.
        speed_period: how far back the speed is estimated from [s].
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    if not columns:
        times = (TimeElapsedColumn(), TimeRemainingColumn())
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *times)
    console = Console(stderr=True, quiet=quiet)
    if quiet or console.is_terminal or console.is_jupyter:
        with Progress(*columns, console=console, speed_estimate_period=speed_period) as progress:
            yield progress
        return
    console = Console(stderr=True, width=LINE_WIDTH)
    shown = [column for column in columns if not isinstance(column, BarColumn)]
    with Progress(*shown, console=console, speed_estimate_period=speed_period) as progress, _lines(progress):
        yield progress


@contextmanager
def _lines(progress: "Progress") -> Iterator[None]:
    """Print a line of each visible task a minute, also while a step takes longer than that."""
    ended = Event()

    def print_lines() -> None:
        while not ended.wait(LINE_EVERY_S):
            progress.console.print(progress.get_renderable())

    thread = Thread(target=print_lines, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
