"""Packs: precomputed embeddings of vocabularies in a bundle, so that their words need not be encoded.

A pack is ``vocabularies/NAME.npz``: ``key`` identifies the text graph and templates that made it; ``words``
(n,) and ``vectors`` (n, D) are as the encoder computes them. A pack with another key is ignored.
"""

import shutil
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.arrays import read_arrays
from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.bundle.bundle import Bundle, write_bundle
from ovsdino_runtime.geometry.types import Floats
from ovsdino_runtime.text.cache import ANY_LENGTH, UNIT, is_embedding

FOLDER = "vocabularies"


class Packs:
    """The packs of a bundle, read on the first look-up."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    def lookup(
        self, key: str, words: Sequence[str], *, width: int, max_length: float = UNIT
    ) -> dict[str, Floats]:
        """Return the embeddings of the words that the packs contain. Shape: (D,) each.

        Raises:
            BundleError: a pack has the right hash but is not a valid pack.
        """
        wanted: dict[str, list[str]] = {}
        for word in words:
            if file := self._where.get((key, word)):
                wanted.setdefault(file, []).append(word)
        return {
            word: vector
            for file, listed in wanted.items()
            for word, vector in self._read(file, listed, width=width, max_length=max_length)
        }

    @cached_property
    def _where(self) -> dict[tuple[str, str], str]:
        """Map (key, word) to the file that holds its embedding."""
        files = [name for name in self._bundle.manifest.files if Path(name).parts[0] == FOLDER]
        where: dict[tuple[str, str], str] = {}
        for name in files:
            pack = _read_pack(self._bundle, name, "key", "words")
            where |= {(str(pack["key"]), word): name for word in _words(pack, self._bundle.file(name))}
        return where

    def _read(
        self, name: str, words: Sequence[str], *, width: int, max_length: float
    ) -> list[tuple[str, Floats]]:
        pack = _read_pack(self._bundle, name, "words", "vectors")
        rows = {word: row for row, word in enumerate(_words(pack, self._bundle.file(name)))}
        vectors = pack["vectors"]  # (n, D)
        expected = len(rows), width
        if vectors.dtype != np.float32 or vectors.shape != expected:
            raise BundleError(
                f"{self._bundle.file(name)}: vectors are {vectors.dtype} of shape {vectors.shape}, expected "
                f"float32 of shape {expected}; export again"
            )
        if bad := next((word for word in words if not is_embedding(vectors[rows[word]], max_length)), None):
            raise BundleError(
                f"{self._bundle.file(name)}: the embedding of {bad!r:.40} is not finite, zero or longer than "
                f"{max_length:g}; export again"
            )
        return [(word, vectors[rows[word]]) for word in words]


def add_packs(
    bundle: Bundle, packs: Mapping[str, Mapping[str, Floats]], *, key: str, out: Path | None = None
) -> Bundle:
    """Write a bundle with additional packs; packs of the same name are replaced.

    Args:
        bundle: the model.
        packs: vectors by word, by name of the pack. Vectors of length zero are left out, since `Packs`
            rejects them. Shape: (D,) each.
        key: key of these vectors; see `encoder.embedding_key`.
        out: path of the new bundle; None replaces the bundle itself.

    Raises:
        BundleError: the bundle cannot be written.
    """
    with scratch_folder("packs") as folder:
        staging = folder / "bundle"
        shutil.copytree(bundle.path, staging)
        (staging / FOLDER).mkdir(exist_ok=True)
        for name, vectors in packs.items():
            good = {word: vector for word, vector in vectors.items() if is_embedding(vector, ANY_LENGTH)}
            if not good:
                continue
            words, rows = np.array(list(good)), np.stack(list(good.values()))
            np.savez(staging / FOLDER / f"{name}.npz", key=np.array(key), words=words, vectors=rows)
        return write_bundle(out or bundle.path, bundle.manifest, staging, overwrite=out is None)


def _read_pack(bundle: Bundle, name: str, *names: str) -> dict[str, npt.NDArray[Any]]:
    try:
        return read_arrays(bundle.file(name), names)
    except (ValueError, OSError) as error:
        raise BundleError(f"{bundle.file(name)}: not a pack of embeddings: {error}; export again") from error


def _words(pack: Mapping[str, npt.NDArray[Any]], file: Path) -> list[str]:
    words = pack["words"]
    if words.dtype.kind != "U" or words.ndim != 1:
        raise BundleError(
            f"{file}: not a pack of embeddings: words are {words.dtype} of shape {words.shape}; export again"
        )
    return cast(list[str], words.tolist())
