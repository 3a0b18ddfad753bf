"""Stage 5 of nano: fine-tune the whole network on the label maps and words of stage 3.

Killed and started again with the same options, it goes on from its last checkpoint.
"""

from __future__ import annotations

import copy
import csv
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import torch
from concepts import read_concepts
from photos import Photos, collate
from rich.progress import Progress
from supervision import WEIGHTS, Words, embed_concepts, losses
from text_bank import PhraseEncoder
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset

from ovsdino.checkpoint import load_backbone, save_model
from ovsdino.config import PRESETS
from ovsdino.model import OVSDINO

BACKBONE = "vit_tiny_patch16_224.augreg_in21k_ft_in1k.safetensors"
NEW_RATE, VIT_RATE, DECAY = 1e-3, 1.5e-4, 0.05
WARM_UP = 0.04  # of all steps
CLIP = 1.0
EMA = 0.995
SAVE_EVERY = 100  # [steps]


@dataclass(frozen=True)
class Phase:
    """Some epochs at one crop size."""

    size: int  # [px]
    epochs: int
    batch: int


@dataclass
class State:
    """What a resumed run needs."""

    model: OVSDINO
    average: OVSDINO
    optimizer: torch.optim.Optimizer
    step: int = 0

    def save(self, path: Path) -> None:
        """Write the state in one step."""
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer}
        raw = {name: part.state_dict() for name, part in parts.items()} | {"step": self.step}
        torch.save(raw, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> None:
        """Continue from a saved state."""
        raw = torch.load(path, weights_only=True)
        for name in ("model", "average", "optimizer"):
            getattr(self, name).load_state_dict(raw[name])
        self.step = raw["step"]


def begin(weights: Path) -> State:
    """Return nano on the ImageNet ViT, with its optimizer."""
    model = OVSDINO(PRESETS["nano"])
    load_backbone(model.backbone, weights / BACKBONE)
    vit = list(model.backbone.parameters())
    new = [p for name, p in model.named_parameters() if not name.startswith("backbone.")]
    groups = [{"params": vit, "peak": VIT_RATE}, {"params": new, "peak": NEW_RATE}]
    state = State(model, copy.deepcopy(model), torch.optim.AdamW(groups, weight_decay=DECAY))
    # BF16 for the transformer alone: oneDNN's BF16 convolutions take ten times longer backward than FP32's.
    half = torch.autocast("cpu", dtype=torch.bfloat16)
    model.backbone.forward = half(model.backbone.forward)  # type: ignore[method-assign]
    return state


def rate(step: int, total: int) -> float:
    """Linear warm-up, then a half cosine to zero: a factor on each group's peak."""
    warm = max(1, int(WARM_UP * total))
    return (
        (step + 1) / warm if step < warm else 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (total - warm))
    )


def train_step(state: State, batch: object, words: Words, factor: float) -> dict[str, float]:
    """Take one step; returns the loss terms."""
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * factor
    generator = torch.Generator().manual_seed(state.step)
    terms = losses(state.model, batch, words, generator)
    total = sum((WEIGHTS[name] * value for name, value in terms.items()), start=torch.zeros(()))
    if not torch.isfinite(total):
        raise click.ClickException(f"step {state.step}: loss is not finite ({terms})")
    state.optimizer.zero_grad()
    total.backward()
    nn.utils.clip_grad_norm_(state.model.parameters(), CLIP)
    state.optimizer.step()
    decay = min(EMA, (state.step + 1) / (state.step + 10))
    with torch.no_grad():
        for slow, fast in zip(state.average.parameters(), state.model.parameters(), strict=True):
            slow.lerp_(fast, 1 - decay)
    return {name: float(value.detach()) for name, value in terms.items()} | {"total": float(total.detach())}


def batches(photos: Photos, phase: Phase, epoch: int, start: int) -> DataLoader:
    """Return the rest of an epoch after ``start`` batches; the same crops however often it is resumed."""
    photos.size, photos.seed = phase.size, epoch
    order = photos.order(epoch)[start * phase.batch :]
    return DataLoader(Subset(photos, order), phase.batch, collate_fn=collate, num_workers=1, drop_last=True)


def word_bank(weights: Path, text: Path) -> Words:
    """Embed every concept's names with nano's own text tower."""
    concepts = read_concepts(weights)
    names = [name for concept in concepts.concepts for name in concept.names]
    bank: Tensor = torch.from_numpy(PhraseEncoder(text).embed(names))
    return embed_concepts(concepts, bank)


def run(state: State, photos: Photos, phases: list[Phase], words: Words, out: Path) -> None:
    """Train through the phases, from wherever the state is."""
    counts = [len(photos) // phase.batch for phase in phases]
    total = sum(count * phase.epochs for count, phase in zip(counts, phases, strict=True))
    log = csv.writer((out / "log.csv").open("a", buffering=1))
    epoch = done = 0
    with Progress() as progress:
        bar = progress.add_task("train", total=total, completed=state.step)
        for phase, count in zip(phases, counts, strict=True):
            for _ in range(phase.epochs):
                epoch, begin_step, done = epoch + 1, done, done + count
                if state.step >= done:
                    continue
                for batch in batches(photos, phase, epoch, state.step - begin_step):
                    started = time.perf_counter()
                    terms = train_step(state, batch, words, rate(state.step, total))
                    state.step += 1
                    progress.advance(bar)
                    took = time.perf_counter() - started
                    log.writerow(
                        [state.step, phase.size, f"{took:.2f}", *(f"{v:.4f}" for v in terms.values())]
                    )
                    if state.step % SAVE_EVERY == 0:
                        state.save(out / "state.pt")
                save_model(state.average, out / "nano.safetensors", dtype=torch.float16)


@click.command()
@click.option("--data", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--weights", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True)
@click.option("--work", type=click.Path(exists=True, path_type=Path), required=True)
@click.option(
    "--text", type=click.Path(exists=True, path_type=Path), required=True, help="Folder of the text tower."
)
@click.option("--out", type=click.Path(path_type=Path), required=True)
@click.option("--phase", "phases", multiple=True, default=("288x5@16", "448x1@12"), help="SIZExEPOCHS@BATCH")
@click.option("--seed", default=0, show_default=True)
def main(
    data: Path, weights: Path, work: Path, text: Path, out: Path, phases: tuple[str, ...], seed: int
) -> None:
    """Train nano; writes OUT/nano.safetensors (FP16) after every epoch."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    plan = [Phase(*(int(v) for v in phase.replace("@", "x").split("x"))) for phase in phases]
    state = begin(weights)
    if (out / "state.pt").exists():
        state.load(out / "state.pt")
    click.echo(f"{[asdict(p) for p in plan]}, from step {state.step}")
    run(state, Photos(data, work), plan, word_bank(weights, text), out)


if __name__ == "__main__":
    main()
