"""From classes to embeddings: every phrase looked up in the cache, and only what is missing encoded."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from ovsdino_runtime.bundle import TOKENIZER, Bundle
from ovsdino_runtime.engines import Engine, open_engine
from ovsdino_runtime.errors import EngineError
from ovsdino_runtime.preprocess import Floats
from ovsdino_runtime.text_cache import TextCache
from ovsdino_runtime.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PHRASES_AT_ONCE = (
    2048  # looked up and averaged at once: bounds the memory of large vocabularies with many templates
)
BATCH = 64  # phrases encoded at once


class TextEncoder:
    """Turns classes into unit vectors. The tokenizer and the text graph are loaded when a phrase is new.

    Args:
        bundle: the model.
        cache: of embeddings.
        device, threads: see `open_engine`.
    """

    def __init__(
        self, bundle: Bundle, cache: TextCache, *, device: str = "cpu", threads: int | None = None
    ) -> None:
        self._bundle = bundle
        self._cache = cache
        self._device = device
        self._threads = threads
        self._digest = bundle.graph_digest("text")
        self._width = bundle.manifest.text.width

    def encode_classes(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Floats:
        """Average each class over all its words in all templates, and normalise. Shape: (N, D)."""
        embeddings = np.empty((len(vocabulary.classes), self._width), np.float32)
        for start, prompts in _blocks(vocabulary, templates):
            vectors = self.encode_phrases(list(dict.fromkeys(phrase for some in prompts for phrase in some)))
            for index, some in enumerate(prompts, start):
                mean = np.mean([vectors[phrase] for phrase in some], axis=0)
                embeddings[index] = mean / max(float(np.linalg.norm(mean)), 1e-6)
        return embeddings

    def encode_phrases(self, phrases: Sequence[str]) -> dict[str, Floats]:
        """Look phrases up in one query; encode and keep those that are new. Shape: (D,) each, unit length."""
        known = self._cache.lookup(self._digest, phrases, width=self._width)
        if missing := [phrase for phrase in phrases if phrase not in known]:
            fresh = self._encode(missing)
            self._cache.store(self._digest, fresh)
            known |= fresh
        return known

    def _encode(self, phrases: Sequence[str]) -> dict[str, Floats]:
        tokenizer, padding = self._tokenizer
        tokens = [encoding.ids for encoding in tokenizer.encode_batch(list(phrases))]
        order = sorted(
            range(len(phrases)), key=lambda index: len(tokens[index])
        )  # little padding in each batch
        vectors: dict[str, Floats] = {}
        for start in range(0, len(order), BATCH):
            batch = order[start : start + BATCH]
            ids = np.full((len(batch), max(1, len(tokens[batch[-1]]))), padding, np.int64)  # (B, T)
            for row, index in zip(ids, batch, strict=True):
                row[: len(tokens[index])] = tokens[index]
            embeddings = self._engine.run({"ids": ids})["embeddings"]  # (B, D)
            self._check(embeddings, len(batch))
            vectors |= {phrases[index]: vector for index, vector in zip(batch, embeddings, strict=True)}
        return vectors

    def _check(self, embeddings: Floats, count: int) -> None:
        if embeddings.shape != (count, self._width) or not np.isfinite(embeddings).all():
            raise EngineError(
                f"{self._bundle.path}: the text graph gave embeddings of shape {embeddings.shape}, "
                f"{np.count_nonzero(~np.isfinite(embeddings))} of them not finite; expected shape "
                f"({count}, {self._width}), all finite; export the model again"
            )

    @cached_property
    def _engine(self) -> Engine:
        return open_engine(self._bundle, "text", device=self._device, threads=self._threads)

    @cached_property
    def _tokenizer(self) -> "tuple[Tokenizer, int]":
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(self._bundle.file(TOKENIZER)))
        tokenizer.enable_truncation(self._bundle.manifest.text.context_length)
        padding = tokenizer.padding
        tokenizer.no_padding()  # batches are padded here, each to its own longest phrase
        return tokenizer, int(padding["pad_id"]) if padding else 0


def _blocks(vocabulary: Vocabulary, templates: Sequence[str]) -> Iterator[tuple[int, list[list[str]]]]:
    """Prompts of some classes at a time, with the index of the first class."""
    start, block, count = 0, list[list[str]](), 0
    for index, words in enumerate(vocabulary.classes):
        block.append([template.replace("{}", word) for word, template in product(words, templates)])
        count += len(block[-1])
        if count >= PHRASES_AT_ONCE or index == len(vocabulary.classes) - 1:
            yield start, block
            start, block, count = index + 1, [], 0
