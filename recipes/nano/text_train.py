"""Stages 4 and 5 of the text tower: train it to reproduce the teacher's embeddings.

On a GPU it takes minutes (--device cuda). On a CPU passive waiting matters: PyTorch's backward pass has a
thread pool of its own, and two spinning pools on two cores make a step several times slower. A killed run
continues from OUT/text_train.pt, with the same draws.

Usage: OMP_WAIT_POLICY=PASSIVE python recipes/nano/text_train.py --work WORK --out OUT
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import torch
from safetensors import safe_open
from text_phrases import Phrase, read_phrases
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F

from ovsdino.network.text_tower import TextConfig, TextTower, load_text_tower, save_text_tower
from ovsdino_runtime.base.atomic import partial_file

FOUND = click.Path(path_type=Path, exists=True)
SEED = 0
BATCH = 1024  # [phrases], unless asked otherwise
CHUNK = 32  # [batches] drawn at once and sorted by length, so that batches hold few pads
STEPS = 9000
SAVE_EVERY = 250  # [steps]
WARM_UP = 200  # [steps]
RATE, MATRIX_RATE, DECAY = 5e-3, 1e-2, 0.01
SHARES = {
    "classes": 0.06,
    "lvis": 0.06,
    "wordnet": 0.28,
    "captions": 0.2,
    "templates": 0.16,
    "combinations": 0.1,
    "hybrids": 0.14,
}
# Of a run that goes on from a tower (--init): more of what people type around a word.
SETTLED_SHARES = {
    "classes": 0.05,
    "lvis": 0.06,
    "wordnet": 0.2,
    "captions": 0.17,
    "templates": 0.25,
    "combinations": 0.2,
    "hybrids": 0.07,
}
BANK_TEMPERATURE = 0.05
CENTRED_WEIGHT = 0.5  # of the cosine of centred embeddings in the loss
# Of the similarities to names in the loss: in the first half of the steps, and after, with words in place.
BANK_WEIGHTS = 0.1, 0.4


@dataclass(frozen=True)
class Data:
    """Training phrases: word pieces (N, T) padded with 0, targets (N, D) float16, probabilities (N,)."""

    ids: Tensor
    lengths: np.ndarray
    targets: Tensor
    chances: np.ndarray


@dataclass(frozen=True)
class Bank:
    """The LVIS names in the training split: word pieces (M, T), the teacher's embeddings (M, D)."""

    ids: Tensor
    targets: Tensor


def load_data(
    work: Path, phrases: list[Phrase], *, tokenizer: Tokenizer, shares: dict[str, float], device: str
) -> Data:
    """Read the training phrases; a phrase's probability is its source's share times its weight there."""
    seen = [i for i, phrase in enumerate(phrases) if not phrase.withheld]
    encoded = tokenizer.encode_batch([phrases[i].text for i in seen])  # padded to the longest
    sources = np.array([phrases[i].source for i in seen])
    chances = np.array([phrases[i].weight for i in seen])
    for source, share in shares.items():
        of_source = sources == source
        chances[of_source] *= share / chances[of_source].sum()
    return Data(
        ids=torch.tensor([e.ids for e in encoded], device=device),
        lengths=np.array([sum(e.attention_mask) for e in encoded]),
        targets=torch.from_numpy(np.load(work / "targets.npy", mmap_mode="r")[seen]).to(device),
        chances=chances / chances.sum(),
    )


def load_bank(work: Path, phrases: list[Phrase], *, tokenizer: Tokenizer, device: str) -> Bank:
    """Read the LVIS names that are training phrases."""
    seen = {phrase.text for phrase in phrases if not phrase.withheld}
    names = (work / "bank.txt").read_text().splitlines()
    encoded = tokenizer.encode_batch([name for name in names if name in seen])
    targets = torch.from_numpy(np.load(work / "bank.npy"))[[name in seen for name in names]]
    return Bank(torch.tensor([e.ids for e in encoded], device=device), targets.to(device))


def draw_batches(data: Data, first_step: int, batch: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of similar length without end; a step always draws the same batch."""
    chunk, skipped = divmod(first_step, CHUNK)
    while True:
        rng = np.random.default_rng((SEED, chunk))
        drawn = rng.choice(len(data.chances), batch * CHUNK, p=data.chances)
        rows = drawn[np.argsort(data.lengths[drawn], kind="stable")].reshape(CHUNK, batch)
        for row in rng.permutation(rows)[skipped:]:
            chosen = torch.from_numpy(row).to(data.ids.device)
            yield data.ids[chosen, : data.lengths[row].max()], data.targets[chosen].float()
        chunk, skipped = chunk + 1, 0


def new_tower(work: Path, tokenizer: Tokenizer) -> TextTower:
    """Initialise the token table with the principal components of the teacher's token embeddings."""
    torch.manual_seed(SEED)
    config = TextConfig(pieces=tokenizer.get_vocab_size(), pad=tokenizer.token_to_id("[PAD]"))
    tower = TextTower(config)
    teacher = Tokenizer.from_file(str(work / "teacher" / "tokenizer.json"))
    with safe_open(work / "teacher" / "model.safetensors", framework="pt") as file:
        words = file.get_tensor("embeddings.word_embeddings.weight").float()
    pieces = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    rows = words[[teacher.token_to_id(piece) for piece, _ in pieces]]  # (V, 384)
    left, values, _ = torch.linalg.svd(rows - rows.mean(0), full_matrices=False)
    table = (left * values)[:, : config.piece_width]  # (V, piece_width)
    with torch.no_grad():
        tower.table.weight.copy_(table * (0.2 / table.std()))
        tower.widen.weight.normal_(std=0.2)
        tower.centre.copy_(torch.from_numpy(np.load(work / "bank.npy")).mean(0))
    return tower


def make_optimizers(tower: TextTower) -> list[torch.optim.Optimizer]:
    """Create Muon for the layers' matrices, AdamW for the token table, the projections and all vectors."""
    matrices = [p for name, p in tower.named_parameters() if p.ndim == 2 and name.startswith("layers")]
    known = {id(p) for p in matrices}
    others = [p for p in tower.parameters() if id(p) not in known]
    return [
        torch.optim.Muon(matrices, lr=MATRIX_RATE, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    ]


def schedule(step: int, steps: int) -> float:
    """Return the learning rate's share of its maximum: linear warm-up, then a half cosine to 0."""
    if step < WARM_UP:
        return (step + 1) / WARM_UP
    return 0.5 * (1 + float(np.cos(np.pi * (step - WARM_UP) / (steps - WARM_UP))))


def distillation_loss(
    raw: Tensor, target: Tensor, *, centre: Tensor, names: Tensor, bank: Tensor, bank_weight: float
) -> tuple[Tensor, Tensor]:
    """Compute the loss: cosine distance to the target, raw and centred, and the divergence of similarities.

    The student's phrases meet the student's own names, as in use; ``bank`` holds the teacher's.

    Shape: raw and target (B, D), names and bank (M, D) -> the loss, the mean raw cosine.
    """
    cosine = (raw * F.normalize(target, dim=-1)).sum(-1).mean()
    centred = F.cosine_similarity(raw - centre, target - centre, dim=-1).mean()
    wanted = (target @ bank.T / BANK_TEMPERATURE).softmax(-1)  # (B, M)
    given = (raw @ names.T / BANK_TEMPERATURE).log_softmax(-1)
    divergence = F.kl_div(given, wanted, reduction="batchmean")
    return (1 - cosine) + CENTRED_WEIGHT * (1 - centred) + bank_weight * divergence, cosine.detach()


@dataclass(frozen=True)
class Plan:
    """Duration and learning rate of training."""

    steps: int
    batch: int  # [phrases]
    rate: float  # factor on all learning rates
    settled: bool  # the words are in place from the start


def train(tower: TextTower, data: Data, *, bank: Bank, plan: Plan, state: Path) -> None:
    """Train in place; save everything that resuming needs to ``state``."""
    device, steps = bank.ids.device, plan.steps
    optimizers, first = make_optimizers(tower), 0
    if state.exists():
        saved = torch.load(state, weights_only=True, map_location=device)
        tower.load_state_dict(saved["tower"])
        for optimizer, values in zip(optimizers, saved["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        first = saved["step"]
    started, recent = time.monotonic(), torch.zeros((), device=device)
    batches = draw_batches(data, first, plan.batch)
    for step in range(first, steps):
        ids, target = next(batches)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            raw, names = tower.encode_raw(ids), tower.encode_raw(bank.ids)
        weight = BANK_WEIGHTS[plan.settled or step >= steps // 2]
        loss, cosine = distillation_loss(
            raw, target, centre=tower.centre, names=names, bank=bank.targets, bank_weight=weight
        )
        tower.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * plan.rate * schedule(step, steps)
            optimizer.step()
        recent += (cosine - recent) / (step % SAVE_EVERY + 1)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            states = {"tower": tower.state_dict(), "step": step + 1}
            states["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
            with partial_file(state) as partial:
                torch.save(states, partial)
            click.echo(f"step {step + 1}: cosine {float(recent):.4f}, {time.monotonic() - started:.0f} s")


@click.command()
@click.option("--work", type=FOUND, required=True, help="Folder of stages 1 and 2.")
@click.option("--out", type=FOUND, required=True, help="Folder of stage 3.")
@click.option("--init", type=FOUND, help="A tower to go on from, which has the tokenizer of stage 3.")
@click.option("--steps", default=STEPS, show_default=True, help="Steps of the whole run.")
@click.option("--batch", default=BATCH, show_default=True, help="Phrases of a step.")
@click.option("--rate", default=1.0, show_default=True, help="Factor on the learning rates.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(
    *, work: Path, out: Path, init: Path | None, steps: int, batch: int, rate: float, device: str
) -> None:
    """Write OUT/nano-text.safetensors."""
    tokenizer = Tokenizer.from_file(str(out / "nano-tokenizer.json"))
    tower = (load_text_tower(init).train() if init else new_tower(work, tokenizer)).to(device)
    click.echo(f"{sum(p.numel() for p in tower.parameters()):,} parameters")
    phrases = read_phrases(work / "phrases.jsonl")
    data = load_data(
        work, phrases, tokenizer=tokenizer, shares=SETTLED_SHARES if init else SHARES, device=device
    )
    bank = load_bank(work, phrases, tokenizer=tokenizer, device=device)
    train(
        tower,
        data,
        bank=bank,
        plan=Plan(steps=steps, batch=batch, rate=rate, settled=init is not None),
        state=out / "text_train.pt",
    )
    save_text_tower(tower, out / "nano-text.safetensors")


if __name__ == "__main__":
    main()
