"""Encode phrases with the trained text tower, as targets of the vision training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from ovsdino.network.text_tower import TextTower, load_text_tower


class PhraseEncoder:
    """The text tower with its tokenizer.

    Args:
        folder: holds ``nano-text.safetensors`` and ``nano-tokenizer.json``.
    """

    def __init__(self, folder: Path) -> None:
        self.tower: TextTower = load_text_tower(folder / "nano-text.safetensors")
        self.tokenizer = Tokenizer.from_file(str(folder / "nano-tokenizer.json"))

    @torch.inference_mode()
    def embed(self, phrases: Sequence[str], *, raw: bool = False, batch: int = 512) -> np.ndarray:
        """Encode phrases: centred, for the vision head, or ``raw`` in the teacher's space.

        Returns:
            (N, 384) float32, unit length, in the order given.
        """
        lengths = [len(phrase) for phrase in phrases]
        order = sorted(range(len(phrases)), key=lengths.__getitem__)  # neighbours in length need few pads
        out = np.empty((len(phrases), self.tower.config.text_width), np.float32)
        encode = self.tower.encode_raw if raw else self.tower
        for start in range(0, len(order), batch):
            chosen = order[start : start + batch]
            encoded = self.tokenizer.encode_batch([phrases[i] for i in chosen])
            out[chosen] = encode(torch.tensor([e.ids for e in encoded])).numpy()
        return out
