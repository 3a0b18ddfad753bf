"""Reject words that the model cannot read or cannot distinguish: they would win or lose by chance.

Equal token ids give equal embeddings. Embeddings are compared first, which is cheap; the tokenizer is loaded
only if two of them are equal, or if a word may be unreadable or too long.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.geometry.types import Floats

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SAME = 1e-6  # distance of two unit vectors that rounding alone explains


class WordCheck:
    """Check words with a tokenizer, which is opened on demand.

    Args:
        open_tokenizer: opens the tokenizer, with truncation and without padding.
        context_length: largest number of tokens that the text graph reads.
    """

    def __init__(self, open_tokenizer: "Callable[[], Tokenizer]", context_length: int) -> None:
        self._open = open_tokenizer
        self._context_length = context_length

    def __call__(self, entries: Sequence[Sequence[str]], vectors: Mapping[str, Floats]) -> None:
        """Check the words of all classes.

        Args:
            entries: the words of each class.
            vectors: each word's embedding. Shape: (D,) each.

        Raises:
            ClassesError: a word has no token that the model knows, or too many tokens, or words of two
                classes have the same tokens. The message names the words.
        """
        for word in vectors:
            if not word.isascii() or len(word) > self._context_length:
                self._check_readable(word)
        classes = {word: number for number, words in enumerate(entries) for word in words}
        for first, second in _equal_pairs(vectors):
            if classes[first] != classes[second] and self._tokens(first) == self._tokens(second):
                raise ClassesError(
                    f"{first!r} and {second!r} are the same to the model: both are the tokens "
                    f"{' '.join(self._tokens(first)) or '(none)'}; leave one out, or choose other words"
                )

    def _check_readable(self, word: str) -> None:
        tokenizer = self._open()
        tokens = self._tokens(word)
        unknown = getattr(tokenizer.model, "unk_token", None)
        if not tokens or set(tokens) == {unknown}:
            raise ClassesError(
                f"{word!r} has no letters that the model knows: it would be any unknown word; "
                "write it in English"
            )
        if len(tokens) >= self._context_length and len(word) > self._context_length:
            raise ClassesError(
                f"'{word[:40]}...' is longer than the {self._context_length} tokens that the model reads; "
                "shorten it"
            )

    def _tokens(self, word: str) -> list[str]:
        tokens: list[str] = self._open().encode(word).tokens
        return tokens


def _equal_pairs(vectors: Mapping[str, Floats]) -> list[tuple[str, str]]:
    """Find pairs of words with equal embeddings, by sorting a projection and comparing neighbours."""
    words = list(vectors)
    if len(words) < 2:
        return []
    table = np.stack([vectors[word] for word in words])  # (n, D)
    direction: Floats = np.random.default_rng(0).standard_normal((table.shape[1],), dtype=np.float32)
    place = table @ direction  # (n,)
    order = np.argsort(place, kind="stable")
    near = np.flatnonzero(np.diff(place[order]) <= SAME * float(np.linalg.norm(direction)))
    pairs = [(order[index], order[index + 1]) for index in near]
    return [
        (words[min(a, b)], words[max(a, b)]) for a, b in pairs if np.abs(table[a] - table[b]).max() <= SAME
    ]
