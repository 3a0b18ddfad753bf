"""The text half of a bundle: encoder, weights, tokenizer and templates."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from tokenizers import Tokenizer
from torch import Tensor, nn

from ovsdino.network.checkpoint import TEXT, packaged_file
from ovsdino.network.config import ModelConfig
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.text.vocabulary import load_templates


@dataclass(frozen=True)
class TextHalf:
    """A text encoder, ready to be exported."""

    tower: nn.Module  # ids (B, T) int64 -> (B, D) float32, unit length; with a projection raw features (B, C)
    tokenizer: Tokenizer
    context_length: int  # [tokens]
    templates: tuple[str, ...]  # the bundle's default prompts
    projection: nn.Module | None = None  # means (N, C) of the tower's features -> (N, D), unit length

    def embed(self, ids: Tensor) -> Tensor:
        """Embed single prompts, for comparisons: (B, T) -> (B, D)."""
        features = cast(Tensor, self.tower(ids))
        return features if self.projection is None else cast(Tensor, self.projection(features))


def load_text_half(config: ModelConfig, checkpoint: Path | None) -> TextHalf:
    """Load the text encoder of a model.

    Args:
        config: names the encoder.
        checkpoint: weights of the encoder; None uses the packaged weights.

    Raises:
        CheckpointError: the weights are missing or belong to another encoder.
        OvsdinoError: there are no packaged weights, or no tokenizer beside the given weights.
    """
    if config.text_encoder == "nano":
        if checkpoint is not None:
            return _load_nano(checkpoint)
        return _load_nano(packaged_file(TEXT))
    if config.text_encoder == "clip-vit-b-16":
        if checkpoint is None:
            raise OvsdinoError(
                f"{config.name} meets words in CLIP ViT-B/16's space, whose weights are not in the package: "
                "`ovsdino models fetch clip-vitb16` fetches them, --text-checkpoint FILE gives them"
            )
        return _load_clip(checkpoint)
    raise OvsdinoError(
        f"{config.name}: unknown text encoder {config.text_encoder!r}, expected nano or clip-vit-b-16"
    )


def _load_nano(weights: Path) -> TextHalf:
    from ovsdino.network.text_tower import find_tokenizer, load_text_tower

    tower = load_text_tower(weights)
    file = find_tokenizer(weights)
    return TextHalf(
        tower=tower,
        tokenizer=Tokenizer.from_file(str(file)),
        context_length=tower.config.context,
        templates=load_templates("name"),
    )


def _load_clip(weights: Path) -> TextHalf:
    from ovsdino.network.clip_text import CONTEXT, load_clip_text
    from ovsdino_export.clip import clip_tokenizer

    return TextHalf(
        tower=load_clip_text(weights),
        tokenizer=clip_tokenizer(),
        context_length=CONTEXT,
        templates=load_templates("imagenet80"),
    )
