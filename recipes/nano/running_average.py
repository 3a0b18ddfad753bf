"""Stage 21 of nano: write the running average of the weights of a run that was stopped early.

Usage: python recipes/nano/running_average.py RUN/state.safetensors --out stopped.safetensors
"""

from __future__ import annotations

from pathlib import Path

import click
import torch
from safetensors.torch import load_file

from ovsdino.network.checkpoint import save_model
from ovsdino.network.config import NANO
from ovsdino.network.model import OVSDINO

PREFIX = "average."


@click.command()
@click.argument("state", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Gets the weights, in FP16.")
def main(state: Path, out: Path) -> None:
    """Write the running average in a training state as a checkpoint."""
    model = OVSDINO(NANO)
    tensors = load_file(state)
    model.load_state_dict(
        {name.removeprefix(PREFIX): value for name, value in tensors.items() if name.startswith(PREFIX)}
    )
    save_model(model, out, dtype=torch.float16)


if __name__ == "__main__":
    main()
