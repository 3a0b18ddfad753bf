"""A published model that is not here yet: offered to whoever can answer.

What can be fetched, and how it becomes a bundle, is known to `ovsdino models`. It is asked in a process of
its own, for this room imports neither torch nor the network.
"""

import subprocess
import sys
from pathlib import Path

from ovsdino_runtime.segmenter import kept_models, packaged_models

OVSDINO = (sys.executable, "-c", "from ovsdino.cli import main; main(prog_name='ovsdino')")
UNKNOWN = 3  # its answer to a name that it does not know


def offer(model: str) -> None:
    """Ask whether a model that can be fetched shall be, and wait for it; where nobody can answer, end.

    Args:
        model: as it was given; a path, or a name that is here or that nobody knows, is left alone.

    Raises:
        SystemExit: it is not fetched; why has been said, in one line.
    """
    if Path(model).exists() or Path(model).name != model or model in packaged_models() | kept_models():
        return
    done = subprocess.run([*OVSDINO, "models", "prepare", "--first-use", model], check=False)
    if done.returncode not in (0, UNKNOWN):
        raise SystemExit(done.returncode)
