"""Measure a first run in a new process, and its memory.

Usage: ``python -m ovsdino_benchmarks.latency.cold_start JOB PHOTO STARTED``.

JOB is a `BaselineJob` as JSON, STARTED the parent's monotonic clock. It writes one line of JSON.
"""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

from ovsdino_benchmarks.latency.baselines import BaselineJob, open_way
from ovsdino_benchmarks.results.environment import memory
from ovsdino_benchmarks.results.results import Fresh
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.errors import OvsdinoError

PHOTOS = 3  # labelled while the peak is watched
RESET_PEAK = "5"  # to /proc/self/clear_refs: Linux begins VmHWM anew


class ChildError(OvsdinoError):
    """A measurement in a child process failed."""


def run_child(job: BaselineJob, photo: Path) -> Fresh:
    """Start a new process that labels a photo; return its times and memory.

    Raises:
        ChildError: the process failed; the message holds its last line of output.
    """
    started = repr(time.monotonic())
    arguments = [
        sys.executable,
        "-m",
        "ovsdino_benchmarks.latency.cold_start",
        strict_json.dumps(job),
        str(photo),
        started,
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ChildError(f"{job.way} in a new process ended with {done.returncode}: {last}")
    return strict_json.parse(Fresh, strict_json.loads(done.stdout.splitlines()[-1]))


def first_run(job: BaselineJob, photo: Path, started: float) -> Fresh:
    """Load the model, label the photo, and measure the memory of this process."""
    way = open_way(job)
    loaded = time.monotonic()
    idle = memory("VmRSS")
    with suppress(OSError):  # another system, or no right to: the peak is then that since the start
        Path("/proc/self/clear_refs").write_text(RESET_PEAK)
    way(photo)
    first = time.monotonic()
    for _ in range(PHOTOS - 1):
        way(photo)
    peak = max(memory("VmHWM"), idle)
    return Fresh(
        load=round(1000 * (loaded - started), 1),
        first=round(1000 * (first - loaded), 1),
        idle=round(idle, 1),
        peak=round(peak, 1),
    )


if __name__ == "__main__":
    raw_job, raw_photo, raw_started = sys.argv[1:]
    parsed = strict_json.parse(BaselineJob, strict_json.loads(raw_job))
    result = first_run(parsed, Path(raw_photo), float(raw_started))
    sys.stdout.write(" ".join(strict_json.dumps(result).split()) + "\n")
