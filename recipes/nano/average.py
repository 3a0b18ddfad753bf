"""Stages 11, 13, 22 and 24 of nano: average the weights of two runs, the second started from the first.

Usage: python recipes/nano/average.py FIRST SECOND --share 0.7 --out nano.safetensors
"""

from __future__ import annotations

from pathlib import Path

import click
import torch

from ovsdino.network.checkpoint import load_model, save_model

FOUND = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.argument("first", type=FOUND)
@click.argument("second", type=FOUND)
@click.option("--share", type=click.FloatRange(0, 1), default=0.5, show_default=True, help="Of SECOND.")
@click.option("--add-bias", type=float, default=0.0, help="Added to the head's bias: moves every confidence.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="Gets the mean, in FP16.")
def main(*, first: Path, second: Path, share: float, add_bias: float, out: Path) -> None:
    """Write the average of two checkpoints of nano."""
    model, other = (load_model("nano", path) for path in (first, second))
    with torch.no_grad():
        for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
            mine.lerp_(theirs, share)
        model.head.bias.add_(add_bias)
    save_model(model, out, dtype=torch.float16)


if __name__ == "__main__":
    main()
