"""Train a linear baseline for dinov3seg-tiny: from ViT-Ti's patches to the space of nano's text embeddings.

The same photos, crops, words, steps and rates as the preset's run, and its cross-entropy over cosines; the
backbone and the text tower stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click
import torch
from rich.progress import track
from safetensors.torch import save_file
from torch import nn

from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.network.head import cosine
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.loader import Loader
from ovsdino.training.data.plan import plan_epochs
from ovsdino.training.distributed import Team
from ovsdino.training.optimizer import rate_factor, set_rate
from ovsdino.training.recipe import RECIPES
from ovsdino.training.systems.dinov3seg import Dinov3segInputs, open_dinov3seg_inputs
from ovsdino.training.systems.ovsdino import TrainingJob
from ovsdino.training.systems.ovsdino_losses import words_cross_entropy

FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
ALONE = Team(0, 1, torch.device("cpu"))


class LinearHead(nn.Module):
    """A backbone whose patches are mapped into the text's space. Shape: (B, 3, H, W) -> (B, D, h, w)."""

    def __init__(self, tower: DinoTxtVision, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.tower.head = nn.Identity()  # type: ignore[assignment]
        self.tower.requires_grad_(False)
        self.map = nn.Conv2d(int(self.tower.backbone.num_features), width, 1)  # type: ignore[arg-type]

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        """Map the patches."""
        with torch.no_grad():
            patches = self.tower(pixels)
        mapped: torch.Tensor = self.map(patches)
        return mapped


def batches(system: Dinov3segInputs) -> Iterator[Batch]:
    """Load the training batches of the preset's run."""
    recipe = system.job.recipe
    loader = Loader(system.make_dataset(recipe.data_of(recipe.phases[0])), 1, ALONE)
    for epoch in plan_epochs(recipe, system.photos, ALONE.size):
        yield from loader.load(epoch)


@click.command()
@click.option("--photos", type=FOLDER, required=True)
@click.option("--masks", type=FOLDER, required=True)
@click.option("--init", type=FILE, required=True, help="ViT-Ti/16, as timm publishes it.")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="A .safetensors file.")
def main(*, photos: Path, masks: Path, init: Path, out: Path) -> None:
    """Train the linear map."""
    recipe = RECIPES["dinov3seg-tiny"]
    job = TrainingJob(recipe=recipe, photos=photos, masks=masks, out=out.parent, init=init)
    system = open_dinov3seg_inputs(job, ALONE)
    model = system.make_model()
    head = LinearHead(model.vlm.vision, system.config.vlm.text_width)  # type: ignore[arg-type]
    group = {"params": list(head.map.parameters()), "peak": recipe.new_rate}
    optimizer = torch.optim.AdamW([group], recipe.new_rate, weight_decay=recipe.weight_decay)
    total = recipe.phases[0].steps
    for step, batch in enumerate(track(batches(system), total=total, description="linear")):
        assert batch.labels is not None
        with torch.no_grad():
            text = model.vlm.text(batch.text)  # (N, D) of unit length
        loss = words_cross_entropy(
            cosine(head(batch.pixels), text), batch, labels=batch.labels, recipe=recipe.data
        )
        optimizer.zero_grad()
        loss.backward()
        set_rate(optimizer, rate_factor(step, warm=0, total=total))
        optimizer.step()
        if step % 50 == 0:
            click.echo(f"step {step}: cross-entropy {loss.item():.3f}")
    save_file(dict(head.map.state_dict()), out)


if __name__ == "__main__":
    main()
