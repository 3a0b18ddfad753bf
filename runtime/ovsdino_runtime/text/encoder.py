"""Embed classes: look words up in packs and cache, and encode only those that are missing."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from ovsdino_runtime.base.errors import BundleError, EngineError, OvsdinoError
from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.bundle.bundle import TOKENIZER, Bundle
from ovsdino_runtime.engines.onnxruntime import Engine, open_engine
from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.text.cache import ANY_LENGTH, UNIT, TextCache, is_embedding
from ovsdino_runtime.text.distinct import WordCheck
from ovsdino_runtime.text.packs import Packs
from ovsdino_runtime.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Item = TypeVar("Item")
PHRASES_AT_ONCE = 2048  # encoded and stored at once: what is done by then survives a crash
BATCH = 64  # phrases in a batch


class ClassEncoder(Protocol):
    """Embed classes. Shape: -> (N, D)."""

    def encode_classes(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Floats: ...


class AbandonedError(OvsdinoError):
    """No caller waits for the embeddings any more."""


class TextEncoder:
    """Embed classes as unit vectors. The tokenizer and the text graph are loaded only for new words.

    Args:
        bundle: the model.
        cache: the text cache.
        threads: see `open_engine`.
        engine: opens the engine of the text graph; None opens it on the CPU.
        trace: records look-ups and batches.
    """

    def __init__(
        self,
        bundle: Bundle,
        cache: TextCache,
        *,
        threads: int | None = None,
        engine: Callable[[], Engine] | None = None,
        trace: Trace = NO_TRACE,
    ) -> None:
        self._bundle = bundle
        self._cache = cache
        self._open = engine or (lambda: open_engine(bundle, "text", threads=threads))
        self._trace = trace
        self._packs = Packs(bundle)
        self._width = bundle.manifest.text.width
        self._projects = "projection" in bundle.manifest.graphs
        normalised_later = self._projects or bundle.manifest.dinov3seg is not None
        self._max_length = ANY_LENGTH if normalised_later else UNIT
        self._word_width = _output_width(bundle) if self._projects else self._width
        self._check = WordCheck(lambda: self._tokenizer[0], bundle.manifest.text.context_length)

    def encode_classes(
        self, vocabulary: Vocabulary, templates: Sequence[str], *, wanted: Callable[[], bool] = lambda: True
    ) -> Floats:
        """Embed each class: average its words over all templates, project the mean, and normalise it.

        Only models with a projection graph project: the text graph of Talk2DINO returns CLIP's features,
            which
        are averaged before the projection and are not unit vectors.

        Args:
            vocabulary: the classes.
            templates: prompts around each word.
            wanted: called before each batch; returns whether a caller still waits.

        Shape: (N, D).

        Raises:
            AbandonedError: no caller waits any more; embeddings computed so far are in the cache.
            ClassesError: the model cannot read a word, or cannot distinguish two; see `WordCheck`.
        """
        words = list(dict.fromkeys(word for synonyms in vocabulary.entries for word in synonyms))
        vectors = self.encode_words(words, templates, wanted=wanted)
        self._check(vocabulary.entries, vectors)
        means = np.stack(
            [np.mean([vectors[word] for word in synonyms], axis=0) for synonyms in vocabulary.entries]
        ).astype(np.float32)
        if self._projects:
            means = self._projection.run({"means": means})["embeddings"]  # (N, D)
            self._check_embeddings(means, len(vocabulary.entries), self._width)
        embeddings: Floats = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-6)
        return embeddings

    def encode_words(
        self,
        words: Sequence[str],
        templates: Sequence[str],
        *,
        done: Callable[[int], object] | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> dict[str, Floats]:
        """Look words up in one query; encode and store new ones.

        Args:
            words: distinct words.
            templates: prompts around each word.
            done: called with the number of newly encoded words, after each portion.
            wanted: see `encode_classes`.

        Returns:
            The mean vector of each word over the templates: a unit vector (D,), or the input of the
                projection
            graph (C,).
        """
        key = embedding_key(self._bundle, templates)
        with self._trace.span("text lookup", words=len(words)):
            known = self._packs.lookup(key, words, width=self._word_width, max_length=self._max_length)
            if unpacked := [word for word in words if word not in known]:
                known |= self._cache.lookup(
                    key, unpacked, width=self._word_width, max_length=self._max_length
                )
        missing = [word for word in words if word not in known]
        report = done or (lambda _: None)
        report(len(known))
        for portion in _portions(missing, max(1, PHRASES_AT_ONCE // len(templates))):
            fresh = self._average(portion, templates, wanted)
            self._cache.store(key, {w: v for w, v in fresh.items() if is_embedding(v, self._max_length)})
            known |= fresh
            report(len(portion))
        return {word: known[word] for word in words}  # in this order, whatever was known before

    def _average(
        self, words: Sequence[str], templates: Sequence[str], wanted: Callable[[], bool]
    ) -> dict[str, Floats]:
        prompts = {word: [template.replace("{}", word) for template in templates] for word in words}
        phrases = dict.fromkeys(phrase for texts in prompts.values() for phrase in texts)
        vectors = self._encode(list(phrases), wanted)
        if (dinov3seg := self._bundle.manifest.dinov3seg) is not None:
            vectors = {
                phrase: unit_halves(vector, dinov3seg.halves).astype(np.float32)
                for phrase, vector in vectors.items()
            }
        return {
            word: np.mean([vectors[phrase] for phrase in texts], axis=0) for word, texts in prompts.items()
        }

    def _encode(self, phrases: Sequence[str], wanted: Callable[[], bool]) -> dict[str, Floats]:
        with self._trace.span("text load"):
            (tokenizer, padding), engine = self._tokenizer, self._engine
        tokens = self._tokenize(tokenizer, phrases)
        order = sorted(range(len(phrases)), key=lambda index: len(tokens[index]))  # little padding in a batch
        vectors: dict[str, Floats] = {}
        for batch in _portions(order, BATCH):
            if not wanted():
                raise AbandonedError("no caller waits for these words any more")
            ids = np.full((len(batch), max(1, len(tokens[batch[-1]]))), padding, np.int64)  # (B, T)
            for row, index in zip(ids, batch, strict=True):
                row[: len(tokens[index])] = tokens[index]
            with self._trace.span("text encode", phrases=len(batch)):
                embeddings = engine.run({"ids": ids})["embeddings"]  # (B, D)
            self._check_embeddings(embeddings, len(batch), self._word_width)
            vectors |= {phrases[index]: vector for index, vector in zip(batch, embeddings, strict=True)}
        return vectors

    def _tokenize(self, tokenizer: "Tokenizer", phrases: Sequence[str]) -> list[list[int]]:
        with self._tokenizer_errors("it cannot split words"):
            return [encoding.ids for encoding in tokenizer.encode_batch(list(phrases))]

    @contextmanager
    def _tokenizer_errors(self, what: str) -> Iterator[None]:
        """Turn errors of the tokenizer, also a panic of its Rust code, which is no Exception.

        Raises:
            BundleError: the tokenizer failed.
        """
        try:
            yield
        except (KeyboardInterrupt, SystemExit, MemoryError):
            raise
        except BaseException as error:
            reason = " ".join(str(error).split())
            raise BundleError(
                f"{self._bundle.file(TOKENIZER)}: {what}: {reason:.200}; export the model again"
            ) from error

    def _check_embeddings(self, embeddings: Floats, count: int, width: int) -> None:
        if embeddings.shape != (count, width) or not np.isfinite(embeddings).all():
            raise EngineError(
                f"{self._bundle.path}: the text graph gave embeddings of shape {embeddings.shape}, "
                f"{np.count_nonzero(~np.isfinite(embeddings))} of them not finite; expected shape "
                f"({count}, {width}), all finite; export the model again"
            )

    @cached_property
    def _engine(self) -> Engine:
        return self._open()

    @cached_property
    def _projection(self) -> Engine:
        return open_engine(self._bundle, "projection", threads=1)

    @cached_property
    def _tokenizer(self) -> "tuple[Tokenizer, int]":
        from tokenizers import Tokenizer

        with self._tokenizer_errors("not a tokenizer"):
            tokenizer = Tokenizer.from_file(str(self._bundle.file(TOKENIZER)))
        tokenizer.enable_truncation(self._bundle.manifest.text.context_length)
        padding = tokenizer.padding
        tokenizer.no_padding()  # batches are padded here, each to its own longest phrase
        return tokenizer, int(padding["pad_id"]) if padding else 0


def _output_width(bundle: Bundle) -> int:
    """Return the width of the text graph's output; with a projection graph it is not the embeddings' width.

    Raises:
        EngineError: the manifest does not contain it.
    """
    shape = bundle.manifest.graphs["text"].outputs[0].shape
    if not isinstance(shape[-1], int):
        raise EngineError(
            f"{bundle.path}: the text graph's output has no fixed width; export the model again"
        )
    return shape[-1]


def unit_halves(vector: Floats, halves: Sequence[tuple[int, int]]) -> Floats:
    """Bring each half of a prompt's embedding to unit length, so that every prompt counts alike in a mean.

    Source: facebookresearch/dinov3, ``notebooks/dinotxt_segmentation_inference.ipynb``.

    Args:
        vector: what the text graph gave.
        halves: first and last column (exclusive) of each half; columns of no half stay as they are.

    Shape: (W,) -> (W,).
    """
    scaled = vector.copy()
    for start, stop in halves:
        scaled[start:stop] /= max(float(np.linalg.norm(vector[start:stop])), 1e-6)
    return scaled


def embedding_key(bundle: Bundle, templates: Sequence[str]) -> str:
    """Hash everything that decides the embedding of a word: text graph, tokenizer, templates and mean."""
    mean = [] if bundle.manifest.dinov3seg is None else ["each half of unit length"]
    parts = [bundle.graph_digest("text"), *templates, *mean]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _portions(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    return (items[start : start + size] for start in range(0, len(items), size))
