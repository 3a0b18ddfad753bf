from collections import Counter

import numpy as np
import pytest

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.text import encoder as text
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary

TEMPLATES = ("a {}", "the {}")
COLOURS = ["red", "green", "blue", "yellow", "white", "black"]


def unit(*values):
    vector = np.zeros(6)
    vector[: len(values)] = values
    return vector / np.linalg.norm(vector)


@pytest.fixture
def encoder(shared_bundle, cache):
    return TextEncoder(shared_bundle, TextCache(cache / "text.sqlite3"))


@pytest.fixture
def batches(monkeypatch):
    """The shape of every batch that an engine is given."""
    seen = []
    real = text.open_engine

    def watched(*arguments, **options):
        engine = real(*arguments, **options)

        class Watched:
            description = engine.description

            def run(self, inputs):
                seen.append(inputs["ids"].shape)
                return engine.run(inputs)

        return Watched()

    monkeypatch.setattr(text, "open_engine", watched)
    return seen


def test_a_class_is_the_mean_of_its_words_in_all_templates(encoder):
    embeddings = encoder.encode_classes(read_classes("red, green|blue"), TEMPLATES)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, [unit(1, -1, -1), unit(-1, 0, 0)], atol=1e-6)


def test_only_what_is_new_is_encoded(encoder, batches, shared_bundle, cache):
    first = encoder.encode_classes(read_classes("red, green"), TEMPLATES)
    assert batches == [(4, 2)]
    again = TextEncoder(shared_bundle, TextCache(cache / "text.sqlite3"))
    np.testing.assert_array_equal(again.encode_classes(read_classes("red, green"), TEMPLATES), first)
    assert batches == [(4, 2)]
    again.encode_classes(read_classes("green, blue, red"), TEMPLATES)
    assert batches == [(4, 2), (2, 2)]


def test_embeddings_belong_to_their_templates(encoder, batches):
    both = encoder.encode_words(["red"], ("a {}", "green {}"))["red"]
    np.testing.assert_allclose(both, (unit(1, -1, -1) + unit(0, 0, -1)) / 2, atol=1e-6)
    np.testing.assert_allclose(encoder.encode_words(["red"], ("a {}",))["red"], unit(1, -1, -1), atol=1e-6)
    assert batches == [(2, 2), (1, 2)]


def test_progress_counts_every_word_once(encoder, monkeypatch):
    monkeypatch.setattr(text, "PHRASES_AT_ONCE", 6)
    encoder.encode_words(["red", "blue"], TEMPLATES)
    steps = []
    encoder.encode_words([*COLOURS, *(f"word{i}" for i in range(4))], TEMPLATES, done=steps.append)
    assert steps == [2, 3, 3, 2]


def test_what_was_encoded_before_a_failure_is_kept(encoder, batches, monkeypatch):
    monkeypatch.setattr(text, "PHRASES_AT_ONCE", 4)
    real = encoder._average

    def fail_at_blue(words, templates, wanted):
        if "blue" in words:
            raise KeyboardInterrupt
        return real(words, templates, wanted)

    monkeypatch.setattr(encoder, "_average", fail_at_blue)
    with pytest.raises(KeyboardInterrupt):
        encoder.encode_words(["red", "green", "blue"], TEMPLATES)
    monkeypatch.undo()
    encoder.encode_words(["red", "green"], TEMPLATES)
    assert batches == [(4, 2)]


def test_nothing_is_loaded_when_all_is_known(encoder, shared_bundle, cache, monkeypatch):
    encoder.encode_classes(read_classes("red"), TEMPLATES)
    monkeypatch.setattr(text, "open_engine", None)  # calling it would fail
    warm = TextEncoder(shared_bundle, TextCache(cache / "text.sqlite3"))
    warm.encode_classes(read_classes("red"), TEMPLATES)


def test_batches_are_sorted_by_length_and_padding_changes_nothing(encoder, batches, monkeypatch):
    monkeypatch.setattr(text, "BATCH", 2)
    phrases = ["red green blue white", "red", "the green blue", "blue"]
    together = encoder.encode_words(phrases, ["{}"])
    assert batches == [(2, 1), (2, 4)]
    for phrase in phrases:
        alone = encoder._encode([phrase], lambda: True)[phrase]
        np.testing.assert_allclose(together[phrase], alone, atol=1e-6)


def test_many_classes_go_in_portions(encoder, batches, monkeypatch):
    monkeypatch.setattr(text, "PHRASES_AT_ONCE", 10)
    classes = Vocabulary(tuple((f"word{i}",) for i in range(33)))
    portions = encoder.encode_classes(classes, TEMPLATES)
    assert Counter(size for size, _ in batches) == {10: 6, 6: 1}
    monkeypatch.setattr(text, "PHRASES_AT_ONCE", 10_000)
    np.testing.assert_array_equal(encoder.encode_classes(classes, TEMPLATES), portions)


def test_long_phrases_are_cut(encoder, batches):
    encoder.encode_words(["red " * 100], ["{}"])
    assert batches == [(1, 16)]


def test_words_without_an_embedding_give_no_numbers_that_are_none(encoder):
    assert np.isfinite(encoder.encode_classes(read_classes("xyzzy, the"), ("{}",))).all()


def test_a_text_graph_that_fails_is_refused(encoder, monkeypatch):
    class Broken:
        description = "broken"

        def run(self, inputs):
            return {"embeddings": np.full((len(inputs["ids"]), 6), np.nan, np.float32)}

    monkeypatch.setattr(text, "open_engine", lambda *_, **__: Broken())
    with pytest.raises(EngineError, match=r"shape \(1, 6\), 6 of them not finite; expected shape \(1, 6\)"):
        encoder.encode_words(["red"], ["{}"])
