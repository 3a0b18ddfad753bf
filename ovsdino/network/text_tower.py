"""The small text tower of ``nano``: encode phrases of word pieces as unit vectors.

It is distilled from all-MiniLM-L6-v2 (``recipes/nano``). It uses plain matrix products, so that it exports to
ONNX with dynamic batch and token axes without changes.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from ovsdino.network.checkpoint import CheckpointError, fill, read_tensors
from ovsdino.network.config import require_fields
from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.regular_file import regular_file

MASKED = -1e4  # added to the score of a pad; finite in FP16, and a row of pads alone stays finite too


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """The configuration of a text tower, stored in its checkpoint.

    Raises:
        ValueError: the width is not a multiple of the heads, or a size is not positive.
    """

    pieces: int = 14_000  # V, word pieces of the tokenizer
    piece_width: int = 144  # of the factorised token table
    width: int = 256  # of the layers
    heads: int = 4
    hidden: int = 768  # of the feed-forward part
    layers: int = 3
    context: int = 48  # most tokens of a phrase; the tokenizer truncates
    text_width: int = 384  # D, all-MiniLM-L6-v2's space
    pad: int = 0  # id of the pad piece

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        sizes = {key: value for key, value in asdict(self).items() if key != "pad" and value < 1}
        if sizes:
            raise ValueError(f"sizes of a text tower must be positive, got {sizes}")

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> TextConfig:
        """Rebuild a configuration from JSON values; unknown or missing fields are a ValueError."""
        return cls(**require_fields(cls, raw, "text tower configuration"))


class SelfAttention(nn.Module):
    """Multi-head self-attention, ``softmax(q k^T / sqrt(d) + mask) v``, with the scale taken into q.

    Shape: x (B, T, W), mask (B, 1, 1, T) -> (B, T, W).
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (width // heads) ** -0.5
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query = self._split(self.query(x) * self.scale)  # (B, heads, T, d)
        key, value = self._split(self.key(x)), self._split(self.value(x))  # (B, heads, T, d)
        scores = query @ key.transpose(-2, -1) + mask  # (B, heads, T, T)
        mixed = scores.softmax(-1) @ value  # (B, heads, T, d)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))  # (B, T, W)
        return out

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:2], self.heads, -1).transpose(1, 2)  # (B, heads, T, d)


class TextLayer(nn.Module):
    """A pre-norm transformer layer.

    Shape: x (B, T, W), mask (B, 1, 1, T) -> (B, T, W).
    """

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.width)
        self.attention = SelfAttention(config.width, config.heads)
        self.feed_norm = nn.LayerNorm(config.width)
        self.feed = nn.Sequential(
            nn.Linear(config.width, config.hidden), nn.GELU(), nn.Linear(config.hidden, config.width)
        )

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x), mask)
        out: Tensor = x + self.feed(self.feed_norm(x))
        return out


class TextTower(nn.Module):
    """Encode phrases into the embedding space of ``nano``'s features.

    A sentence encoder maps all names of things into one narrow cone. `forward` therefore returns
    ``normalise(raw - centre)``, where ``centre`` is the teacher's mean over the 1,203 LVIS names;
    `encode_raw` returns the vector in the teacher's own space.

    Args:
        config: the configuration of the tower.

    Shape: ids (B, T) int64, T <= config.context -> (B, D), unit length, FP32.
    """

    centre: Tensor

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.pieces, config.piece_width)
        self.widen = nn.Linear(config.piece_width, config.width, bias=False)
        self.position = nn.Parameter(torch.randn(config.context, config.width) * 0.02)
        self.layers = nn.ModuleList(TextLayer(config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.width)
        self.project = nn.Linear(config.width, config.text_width)
        self.register_buffer("centre", torch.zeros(config.text_width))

    def forward(self, ids: Tensor) -> Tensor:
        """Return centred embeddings (B, D) of unit length."""
        return F.normalize(self.encode_raw(ids) - self.centre, dim=-1)

    def encode_raw(self, ids: Tensor) -> Tensor:
        """Return embeddings (B, D) of unit length in the teacher's space."""
        real = (ids != self.config.pad).to(self.position.dtype)  # (B, T), 1 where there is a piece
        mask = ((1 - real) * MASKED)[:, None, None]  # (B, 1, 1, T)
        x = self.widen(self.table(ids)) + self.position[: ids.shape[1]]  # (B, T, W)
        for layer in self.layers:
            x = layer(x, mask)
        count = real.sum(1, keepdim=True).clamp(min=1)  # (B, 1); an empty phrase has no piece
        # No norm before the mean: a layer can make a piece count more by making it longer.
        mean = (x * real[..., None]).sum(1) / count  # (B, W)
        return F.normalize(self.project(self.norm(mean)).float(), dim=-1)  # (B, D)


def save_text_tower(tower: TextTower, path: Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write weights and configuration atomically, by default as FP16."""
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in tower.state_dict().items()}
    with partial_file(path) as partial:
        save_file(tensors, partial, metadata={"config": json.dumps(asdict(tower.config))})


def load_text_tower(weights: Path) -> TextTower:
    """Load a tower that :func:`save_text_tower` wrote, strictly.

    Returns:
        The tower in eval mode, FP32.

    Raises:
        CheckpointError: there is no such file, it is not a text tower, or its weights do not match its
            configuration.
    """
    tensors = read_tensors(weights)
    try:
        with safe_open(regular_file(weights), framework="pt") as file:
            config = TextConfig.from_dict(json.loads((file.metadata() or {})["config"]))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError, TypeError) as error:
        problem = f"no text tower's configuration inside ({error})"
        raise CheckpointError(f"{weights}: {problem}; was it written by ovsdino?") from error
    tower = TextTower(config)
    fill(tower, tensors, path=weights, name="a text tower")
    return tower.eval()


def find_tokenizer(weights: Path) -> Path:
    """Find the tokenizer beside a tower's weights: ``tokenizer.json``, or NAME-tokenizer.json for NAME-text.

    Raises:
        CheckpointError: there is no such file.
    """
    names = ("tokenizer.json", f"{weights.stem.removesuffix('-text')}-tokenizer.json")
    for name in names:
        if (file := weights.with_name(name)).is_file():
            return file
    raise CheckpointError(f"no {' or '.join(names)} beside {weights}; the tokenizer belongs there")
