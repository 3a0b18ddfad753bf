"""Encode words in advance, into the user's cache or as packs into a bundle."""

from collections.abc import Callable, Sequence
from pathlib import Path

from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.bundle.bundle import Bundle, load_bundle
from ovsdino_runtime.bundle.models import find_bundle, packaged_models
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import TextEncoder, embedding_key
from ovsdino_runtime.text.packs import add_packs
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary

Done = Callable[[int], object]


def prefetch(
    model: str | Path,
    words: Sequence[str],
    *,
    templates: Sequence[str] | None = None,
    threads: int | None = None,
    done: Done | None = None,
) -> None:
    """Encode words into the text cache. Finished portions survive a crash and are not encoded again.

    Args:
        model: see `Segmenter.load`.
        words: distinct words.
        templates: prompts around each word; None uses the model's own.
        threads: number of computing threads; None uses all processors.
        done: called with the number of newly encoded words, after each portion.

    Raises:
        BundleError: there is no such model, or its bundle is damaged.
        EngineError: the engine is not installed.
    """
    bundle = load_bundle(find_bundle(model))
    _open_text(bundle, threads).encode_words(words, templates or bundle.manifest.templates, done=done)


def pack_vocabularies(
    model: str | Path, names: Sequence[str], *, out: Path | None = None, done: Done | None = None
) -> Bundle:
    """Add packs of packaged vocabularies to a bundle, encoded with the model's own templates.

    Args:
        model: see `Segmenter.load`.
        names: names of packaged vocabularies.
        out: path of the new bundle. None replaces the model's bundle, which must not belong to the installed
            package.
        done: called with the number of newly encoded words, after each portion.

    Raises:
        ClassesError: there is no vocabulary of that name.
        BundleError: there is no such model, or its bundle cannot be written.
        EngineError: the engine is not installed.
    """
    vocabularies = {name: words_of(load_vocabulary(name)) for name in names}
    bundle = load_bundle(find_bundle(model))
    if out is None and bundle.path.resolve() in {path.resolve() for path in packaged_models().values()}:
        raise BundleError(
            f"{bundle.path.name} belongs to the installed package, which is not changed; write a copy with "
            "--out DIR/NAME.ovs"
        )
    if out is not None and out.exists():
        raise BundleError(f"{out}: exists already; choose another --out")
    templates, text = bundle.manifest.templates, _open_text(bundle, None)
    packs = {name: text.encode_words(words, templates, done=done) for name, words in vocabularies.items()}
    return add_packs(bundle, packs, key=embedding_key(bundle, templates), out=out)


def words_of(vocabulary: Vocabulary) -> list[str]:
    """List the distinct words of all classes."""
    return list(dict.fromkeys(word for synonyms in vocabulary.classes for word in synonyms))


def _open_text(bundle: Bundle, threads: int | None) -> TextEncoder:
    return TextEncoder(bundle, TextCache(cache_dir() / "text.sqlite3"), threads=threads)
