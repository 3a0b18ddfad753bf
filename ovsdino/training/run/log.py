"""The log of a run: progress bar, CSV files, and TensorBoard if it is installed."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.progress import open_progress

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

SMOOTH = 0.95  # of the figures beside the bar


class CsvLog:
    """A CSV file whose rows begin with the step. Rows of steps that a resumed run repeats are removed.

    Args:
        path: the file.
        step: number of finished steps; later rows come from a killed run that had not saved its state.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        self.header: list[str] = []
        if path.is_file():
            with path.open(newline="", errors="replace") as file:
                self.header, *rows = list(csv.reader(file)) or [[]]
            kept = [row for row in rows if row and row[0].isdigit() and int(row[0]) <= step]
            with partial_file(path) as partial, partial.open("w", newline="") as file:
                csv.writer(file).writerows([self.header, *kept])

    def add(self, row: Mapping[str, float]) -> None:
        """Append a row. The keys of the first row are the header; other keys are dropped."""
        with self.path.open("a", newline="") as file:
            writer = csv.writer(file)
            if not self.header:
                self.header = list(row)
                writer.writerow(self.header)
            writer.writerow([_short(row.get(key, "")) for key in self.header])


class Log:
    """The log of a run. Create it with `open_log`."""

    def __init__(self, folder: Path | None, step: int, *, total: int, progress: Progress) -> None:
        self.progress = progress
        self.task: TaskID = progress.add_task("train", total=total, completed=step, loss="", waiting="")
        self.steps = None if folder is None else CsvLog(folder / "steps.csv", step)
        self.epochs = None if folder is None else CsvLog(folder / "epochs.csv", step)
        self.board = None if folder is None else _open_board(folder / "tensorboard", step)
        self.loss: float | None = None
        self.seconds = self.waited = 0.0

    def step(self, step: int, figures: Mapping[str, float], *, seconds: float, waited: float) -> None:
        """Log a finished step.

        Args:
            step: number of finished steps.
            figures: the loss ("loss"), its terms, the gradient norm and the like.
            seconds: duration of the step, including waiting [s].
            waited: time spent waiting for data [s].
        """
        self.seconds = SMOOTH * self.seconds + seconds
        self.waited = SMOOTH * self.waited + waited
        last = figures["loss"]
        self.loss = last if self.loss is None else SMOOTH * self.loss + (1 - SMOOTH) * last
        waiting = f"{100 * self.waited / max(self.seconds, 1e-9):.0f} % waiting for data"
        self.progress.update(self.task, completed=step, loss=f"loss {self.loss:.4f}", waiting=waiting)
        if self.steps is not None:
            self.steps.add({"step": step, **figures, "seconds": seconds, "waited": waited})
        self._plot(step, figures)

    def epoch(self, step: int, epoch: int, figures: Mapping[str, float]) -> None:
        """Log a finished epoch with its validation."""
        if self.epochs is not None:
            self.epochs.add({"step": step, "epoch": epoch, **figures})
        line = ", ".join(f"{name} {_short(value)}" for name, value in figures.items())
        self.say(f"epoch {epoch}: {line}" if line else f"epoch {epoch} done")
        self._plot(step, figures)

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.progress.console.print(line, highlight=False, soft_wrap=True, markup=False)

    def _plot(self, step: int, figures: Mapping[str, float]) -> None:
        if self.board is not None:
            for name, value in figures.items():
                self.board.add_scalar(name, value, step)


@contextmanager
def open_log(folder: Path | None, *, step: int, total: int) -> Iterator[Log]:
    """Open the log of a run.

    Args:
        folder: folder of ``steps.csv``, ``epochs.csv`` and ``tensorboard/``; None writes nothing.
        step: number of finished steps.
        total: number of all steps.
    """
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        TextColumn("{task.fields[waiting]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with open_progress(*columns, quiet=folder is None) as progress:
        log = Log(folder, step, total=total, progress=progress)
        try:
            yield log
        finally:
            if log.board is not None:
                log.board.close()


def _open_board(folder: Path, step: int) -> SummaryWriter | None:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:  # the package tensorboard is not installed
        return None
    return SummaryWriter(str(folder), purge_step=step + 1)


def _short(value: float | str) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)
