"""Embeddings of all training words, encoded once with the frozen text tower and cached on disk."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from ovsdino.network.checkpoint import TEXT, packaged_file
from ovsdino.network.config import ModelConfig
from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.progress import open_progress
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.text.vocabulary import load_templates

CLIP_SOURCE = "hf download timm/vit_base_patch16_clip_224.openai open_clip_model.safetensors --local-dir ."
BATCH = 256  # prompts encoded at once
SAVE_EVERY = 60  # [s]


class WordError(OvsdinoError):
    """The text tower is missing, or a word has no embedding."""


@dataclass(frozen=True)
class Prompter:
    """A frozen text tower with its tokenizer and prompts."""

    tower: nn.Module  # ids (B, T) -> (B, D), unit length
    tokenize: Callable[[list[str]], Tensor]  # prompts -> ids (B, T)
    templates: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Hash everything that an embedding depends on, except the word."""
        digest = hashlib.sha256(json.dumps(self.templates).encode())
        for name, value in sorted(self.tower.state_dict().items()):
            digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:24]

    @torch.inference_mode()
    def encode(self, words: Sequence[str]) -> Tensor:
        """Average each word's prompts and normalise; each prompt's vector has unit length: (N, D).

        Source: OVS-DINO, "standard ImageNet prompt templates"; normalised before and after, as CLIP does.
        """
        device = next(self.tower.parameters()).device
        prompts = [template.replace("{}", word) for word in words for template in self.templates]
        parts = [prompts[start : start + BATCH] for start in range(0, len(prompts), BATCH)]
        vectors = torch.cat([self.tower(self.tokenize(part).to(device)).float().cpu() for part in parts])
        return F.normalize(vectors.reshape(len(words), len(self.templates), -1).mean(1), dim=-1)  # (N, D)


class WordBank:
    """Unit vectors by word.

    Args:
        words: the words.
        vectors: their embeddings, (N, D).
    """

    def __init__(self, words: Sequence[str], vectors: Tensor) -> None:
        self.words = tuple(words)
        self.vectors = vectors
        self._place = {word: index for index, word in enumerate(self.words)}

    def __call__(self, words: Iterable[str]) -> Tensor:
        """Return the embeddings of words, (N, D).

        Raises:
            WordError: a word has no embedding.
        """
        try:
            return self.vectors[[self._place[word] for word in words]]
        except KeyError as error:
            raise WordError(
                f"no embedding of the word {error}: neither vocabulary.json nor synonyms.json has it; "
                "make the masks again"
            ) from error


def load_prompter(
    config: ModelConfig, checkpoint: Path | None = None, *, templates: str | None = None
) -> Prompter:
    """Load the text tower of a model.

    CLIP uses the 80 ImageNet templates, nano's tower the bare word. The paper states the templates for its
    evaluation; using them for training words is our reconstruction.

    Args:
        config: names the tower.
        checkpoint: weights of the tower; None uses nano's packaged weights.
        templates: a set of prompts or one prompt, see `load_templates`; None uses the default above.

    Raises:
        WordError: CLIP's weights are not given.
        CheckpointError: the weights are missing or belong to another tower.
    """
    if config.text_encoder == "nano":
        return _load_nano(checkpoint or packaged_file(TEXT), templates or "name")
    if checkpoint is None or not checkpoint.is_file():
        raise WordError(
            f"{config.name} needs CLIP ViT-B/16's text encoder, {checkpoint or 'no file'} given; "
            f"get it with `{CLIP_SOURCE}` and give that file"
        )
    import open_clip

    from ovsdino.network.clip_text import load_clip_text

    return Prompter(
        load_clip_text(checkpoint),
        open_clip.get_tokenizer("ViT-B-16"),
        load_templates(templates or "imagenet80"),
    )


def _load_nano(weights: Path, templates: str) -> Prompter:
    from tokenizers import Tokenizer

    from ovsdino.network.text_tower import find_tokenizer, load_text_tower

    tokenizer = Tokenizer.from_file(str(find_tokenizer(weights)))
    tower = load_text_tower(weights)

    def tokenize(prompts: list[str]) -> Tensor:
        return torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(prompts)])

    return Prompter(tower, tokenize, load_templates(templates))


def build_word_bank(words: Iterable[str], prompter: Prompter, cache: Path) -> WordBank:
    """Embed all words that are not in the cache. A killed run loses at most a minute of work.

    Args:
        words: all words that training may use.
        prompter: the text tower and its prompts.
        cache: folder of the cache; its file is named after the tower and the prompts.
    """
    path = cache / f"words-{prompter.digest}.safetensors"
    known = _read(path)
    words = sorted(set(words))
    missing = [word for word in words if word not in known]
    at_once = max(1, BATCH // len(prompter.templates))
    parts = [missing[start : start + at_once] for start in range(0, len(missing), at_once)]
    saved = time.monotonic()
    with open_progress(quiet=len(parts) < 2) as progress:
        for part in progress.track(parts, description="words"):
            known.update(zip(part, prompter.encode(part), strict=True))
            if time.monotonic() - saved > SAVE_EVERY:
                _write(path, known)
                saved = time.monotonic()
    if missing:
        _write(path, known)
    return WordBank(words, torch.stack([known[word] for word in words]))


def _read(path: Path) -> dict[str, Tensor]:
    if not path.exists():
        return {}
    try:
        with safe_open(regular_file(path), framework="pt") as file:
            words = json.loads((file.metadata() or {})["words"])
            vectors: Tensor = file.get_tensor("vectors")  # (n, D)
            if not vectors.dtype.is_floating_point or not torch.isfinite(vectors).all():
                raise ValueError("its vectors are not finite numbers")
            return dict(zip(words, vectors, strict=True))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise WordError(f"{path}: damaged ({error}); delete it, it is made again") from error


def _write(path: Path, known: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_file(path) as partial:
        save_file(
            {"vectors": torch.stack(list(known.values()))},
            partial,
            metadata={"words": json.dumps(list(known))},
        )
