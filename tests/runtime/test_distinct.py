"""Words that the model cannot tell apart are refused; the reference is the tokenizer itself."""

import numpy as np
import pytest
from tokenizers import Tokenizer

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.distinct import WordCheck, _equal_pairs
from ovsdino_runtime.text.vocabulary import load_vocabulary, vocabulary_names

CAT, CYRILLIC = "\u732b", "\u043a\u043e\u0448\u043a\u0430"


@pytest.fixture(scope="module")
def tokenizer():
    tokenizer = Tokenizer.from_file(str(find_bundle("nano") / "tokenizer.json"))
    tokenizer.enable_truncation(48)
    tokenizer.no_padding()
    return tokenizer


@pytest.fixture
def check(tokenizer):
    """A check of classes in which words of the same tokens have the same vector, as a text graph gives it."""
    seen: dict[tuple[int, ...], np.ndarray] = {}
    random = np.random.default_rng(0)

    def check(classes):
        entries = read_classes(classes).classes
        words = [word for words in entries for word in words]
        for word in words:
            vector = random.standard_normal(8).astype(np.float32)
            seen.setdefault(tuple(tokenizer.encode(word).ids), vector / np.linalg.norm(vector))
        vectors = {word: seen[tuple(tokenizer.encode(word).ids)] for word in words}
        WordCheck(lambda: tokenizer, 48)(entries, vectors)

    return check


@pytest.mark.parametrize(
    "classes", ["cat, dog", "\u00e1rbol, casa", "na\u00efve|naive, cat", "red car, car red"]
)
def test_words_with_tokens_of_their_own(check, classes):
    check(classes)


@pytest.mark.parametrize("name", vocabulary_names())
def test_packaged_vocabularies_pass(check, name):
    check(load_vocabulary(name))


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        (f"cat, {CAT}", f"'{CAT}' has no letters that the model knows"),
        (CYRILLIC, "has no letters that the model knows: it would be any unknown word; write it in English"),
        (
            ["\u00e1rbol", "arbol"],
            "'\u00e1rbol' and 'arbol' are the same to the model: both are the tokens ar ##bol",
        ),
        ("x" * 61, "has no letters that the model knows"),  # one unknown token
        (
            ["very " * 60 + "old cat", "dog"],
            r"'very very .*\.\.\.' is longer than the 48 tokens that the model reads",
        ),
    ],
)
def test_words_without(check, classes, message):
    with pytest.raises(ClassesError, match=message):
        check(classes)


def test_equal_vectors_are_found_among_many():
    random = np.random.default_rng(0)
    vectors = {
        f"word{i}": vector / np.linalg.norm(vector) for i, vector in enumerate(random.normal(size=(500, 16)))
    }
    assert _equal_pairs(vectors) == []
    vectors["again"] = vectors["word7"] + 1e-8
    assert _equal_pairs(vectors) == [("word7", "again")]


def test_the_segmenter_refuses_them(shared_bundle, flag):
    from ovsdino_runtime.segmenter import Segmenter

    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        with pytest.raises(ClassesError, match=r"'xyzzy' and 'plugh' are the same to the model: .* \[UNK\]"):
            segmenter(flag, "red, xyzzy, plugh")
        with pytest.raises(ClassesError, match="'\u732b' has no letters that the model knows"):
            segmenter(flag, f"red, {CAT}")
        assert segmenter(flag, "red, blue").classes == ("red", "blue")
