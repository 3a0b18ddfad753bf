"""Progress bars: done, rate, time left."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from ovsdino_runtime.base.progress import open_progress

if TYPE_CHECKING:
    from rich.progress import Progress


def _open(unit: str) -> AbstractContextManager[Progress]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        """Items per second, or seconds per item where they are slow."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            if not speed:
                return Text(f"- {unit}/s")
            return Text(f"{speed:.1f} {unit}/s" if speed >= 1 else f"{1 / speed:.1f} s/{unit}")

    return open_progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        speed_period=300,
    )


@contextmanager
def counting(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar once the total is known. Yields a function of (done, total)."""
    with _open(what.removesuffix("s")) as bar:
        task = bar.add_task(what, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=True)


@contextmanager
def working() -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show a bar of photos. Yields two functions: one sets the total, one adds finished photos."""
    with _open("photo") as bar:
        task = bar.add_task("masks", total=None)
        yield lambda total: bar.update(task, total=total), lambda count: bar.advance(task, count)
