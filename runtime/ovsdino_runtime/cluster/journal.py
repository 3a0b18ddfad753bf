"""Record finished work, so that a killed job can resume.

The journal is a folder beside the results. Each process appends to its own file after a result has been
written; a source whose line is incomplete or missing is processed again.
"""

import json
import uuid
from collections.abc import Mapping
from pathlib import Path

from ovsdino_runtime.base.atomic import write_text
from ovsdino_runtime.base.errors import OutputError, OvsdinoError

FOLDER = ".ovsdino-done"
JOB = "job.json"


class OtherJobError(OvsdinoError):
    """The folder holds the results of another job."""


class Journal:
    """The journal of one process.

    Args:
        out: the folder of the results.
    """

    def __init__(self, out: Path) -> None:
        self._folder = out / FOLDER
        self._file = self._folder / f"{uuid.uuid4().hex}.jsonl"

    def done(self, job: Mapping[str, object]) -> set[str]:
        """Return the keys of the finished sources of a job.

        Args:
            job: everything that decides the results, as plain data.

        Raises:
            OtherJobError: the folder holds the results of another job.
            OutputError: the journal is damaged or cannot be read.
        """
        path = self._folder / JOB
        if not path.is_file():
            return set()
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
            lines = [line for file in self._folder.glob("*.jsonl") for line in _lines(file)]
        except (OSError, ValueError, RecursionError) as error:
            reason = error.strerror if isinstance(error, OSError) else "damaged"
            raise OutputError(f"{path}: {reason}; choose another --out, or delete {self._folder}") from error
        self._compare(before, json.loads(_write(job)))
        return {key for line in lines if (key := _read(line)) is not None}

    def begin(self, job: Mapping[str, object]) -> None:
        """Record which job the folder belongs to, unless that is recorded already.

        Raises:
            OutputError: the journal cannot be written.
        """
        path = self._folder / JOB
        if path.is_file():
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write_text(path, _write(job))
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror}; choose another --out") from error

    def add(self, key: str) -> None:
        """Record a source as finished.

        Raises:
            OutputError: the journal cannot be written.
        """
        try:
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(key) + "\n")
        except OSError as error:
            raise OutputError(f"{self._file}: cannot be written: {error.strerror}") from error

    def _compare(self, before: dict[str, object], now: dict[str, object]) -> None:
        changed = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
        if changed:
            raise OtherJobError(
                f"{self._folder.parent}: holds the results of another job ({', '.join(changed)}: different); "
                f"choose another --out, or delete {self._folder} to begin again"
            )


def _write(job: Mapping[str, object]) -> str:
    return json.dumps(job, sort_keys=True, indent=1)


def _lines(file: Path) -> list[str]:
    return file.read_text(encoding="utf-8").splitlines()


def _read(line: str) -> str | None:
    """Parse the key of a line; None if the line is incomplete."""
    try:
        return str(json.loads(line))
    except (ValueError, RecursionError):
        return None
