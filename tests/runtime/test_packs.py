import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from ovsdino_runtime.base.errors import BundleError, ClassesError
from ovsdino_runtime.bundle.bundle import load_bundle, write_bundle
from ovsdino_runtime.cli import packs
from ovsdino_runtime.text import encoder as text
from ovsdino_runtime.text import prefetch
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import TextEncoder, embedding_key
from ovsdino_runtime.text.packs import Packs, add_packs
from ovsdino_runtime.text.prefetch import pack_vocabularies, words_of
from ovsdino_runtime.text.vocabulary import load_vocabulary

TEMPLATES = ("a {}", "the {}")


@pytest.fixture
def packed(bundle):
    """The tiny bundle with two vocabularies in it."""
    return pack_vocabularies(bundle.path, ["voc20", "camvid11"])


def encoder(bundle, folder):
    return TextEncoder(bundle, TextCache(folder / "other.sqlite3"))


def test_packed_words_are_what_the_encoder_gives_and_need_neither_graph_nor_cache(
    packed, bundle, tmp_path, monkeypatch
):
    vocabulary = load_vocabulary("camvid11")
    expected = encoder(bundle, tmp_path / "a").encode_classes(vocabulary, TEMPLATES)
    monkeypatch.setattr(text, "open_engine", None)  # calling it would fail
    actual = encoder(packed, tmp_path / "b").encode_classes(vocabulary, TEMPLATES)
    np.testing.assert_array_equal(actual, expected)
    assert not (tmp_path / "b").exists()


def test_only_words_that_no_pack_knows_are_encoded(packed, tmp_path):
    words = [*words_of(load_vocabulary("voc20"))[:3], "red"]
    steps = []
    vectors = encoder(packed, tmp_path).encode_words(words, TEMPLATES, done=steps.append)
    assert steps == [3, 1]
    assert list(vectors) == words


def test_other_templates_and_other_graphs_take_no_packs(packed, staging, tmp_path):
    words, steps = words_of(load_vocabulary("voc20")), []
    encoder(packed, tmp_path / "a").encode_words(words, ("a {}",), done=steps.append)
    assert steps == [0, len(words)]
    other = tmp_path / "other"
    shutil.copytree(packed.path, other)
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text() + "\n")  # the same, but nobody knows
    changed = write_bundle(tmp_path / "changed.ovs", packed.manifest, other)
    steps.clear()
    encoder(changed, tmp_path / "b").encode_words(words, TEMPLATES, done=steps.append)
    assert steps == [0, len(words)]
    assert embedding_key(changed, TEMPLATES) != embedding_key(packed, TEMPLATES)


def test_a_packed_bundle_is_whole_and_can_be_packed_again(packed):
    again = pack_vocabularies(packed.path, ["voc20", "voc21"])
    assert (
        load_bundle(again.path).manifest.files.keys() - {"vocabularies/voc21.npz"}
        == packed.manifest.files.keys()
    )


def test_what_is_no_pack_is_refused(bundle, staging, tmp_path):
    shutil.copytree(staging, tmp_path / "staging")
    (tmp_path / "staging" / "vocabularies").mkdir()
    np.savez(tmp_path / "staging" / "vocabularies" / "bad.npz", words=np.array(["red"]))
    bad = write_bundle(tmp_path / "bad.ovs", bundle.manifest, tmp_path / "staging")
    with pytest.raises(BundleError, match=r"bad\.npz: not a pack of embeddings: .*key"):
        encoder(bad, tmp_path).encode_words(["red"], TEMPLATES)


def test_the_command(bundle):
    result = CliRunner().invoke(packs, ["voc20", "--model", str(bundle.path)])
    assert (result.exit_code, result.output) == (0, f"{bundle.path} holds voc20 now\n")
    assert (bundle.path / "vocabularies" / "voc20.npz").is_file()
    result = CliRunner().invoke(packs, ["voc20", "imagenet", "--model", str(bundle.path)])
    assert result.exit_code == 2
    assert "unknown vocabulary 'imagenet'" in result.stderr


def test_an_unknown_vocabulary_changes_nothing(bundle):
    before = load_bundle(bundle.path).manifest
    with pytest.raises(ClassesError, match="unknown vocabulary"):
        pack_vocabularies(bundle.path, ["voc20", "none"])
    assert load_bundle(bundle.path).manifest == before


def test_the_installed_package_is_not_changed(bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "packaged_models", lambda: {"tiny": bundle.path})
    before = {file.name: file.read_bytes() for file in bundle.path.iterdir()}
    result = CliRunner().invoke(packs, ["voc20", "--model", str(bundle.path)])
    assert result.exit_code == 2
    assert "tiny.ovs belongs to the installed package, which is not changed; write a copy" in result.stderr
    copy = tmp_path / "copies" / "mine.ovs"
    result = CliRunner().invoke(packs, ["voc20", "--model", str(bundle.path), "--out", str(copy)])
    assert (result.exit_code, result.output) == (0, f"{copy} holds voc20 now\n")
    assert "vocabularies/voc20.npz" in load_bundle(copy).manifest.files
    assert {file.name: file.read_bytes() for file in bundle.path.iterdir()} == before
    result = CliRunner().invoke(packs, ["voc20", "--model", str(bundle.path), "--out", str(copy)])
    assert result.exit_code == 2
    assert "exists already" in result.stderr


@pytest.mark.parametrize(
    ("vectors", "reason"),
    [
        (np.full((1, 8), np.nan, np.float32), "not finite"),
        (np.zeros((1, 8), np.float32), "not finite, zero"),
        (np.full((1, 8), 1e30, np.float32), "or longer than"),
        (np.ones((1, 8), np.complex64), "vectors are complex64"),
        (np.ones((2, 8), np.float32), "expected float32 of shape"),
        (np.ones(8, np.float32), "expected float32 of shape"),
    ],
)
def test_vectors_that_are_no_embeddings_are_refused(bundle, staging, tmp_path, vectors, reason):
    width = bundle.manifest.text.width
    vectors = np.resize(vectors, (*vectors.shape[:-1], width)).astype(vectors.dtype)
    shutil.copytree(staging, tmp_path / "staging")
    (tmp_path / "staging" / "vocabularies").mkdir()
    key = np.array(embedding_key(bundle, TEMPLATES))
    np.savez(tmp_path / "staging" / "vocabularies" / "bad.npz", key=key, words=["red"], vectors=vectors)
    bad = write_bundle(tmp_path / "bad.ovs", bundle.manifest, tmp_path / "staging")
    with pytest.raises(BundleError, match=reason):
        encoder(bad, tmp_path).encode_words(["red"], TEMPLATES)


def test_a_word_without_an_embedding_is_in_no_pack_and_breaks_no_cache(bundle, tmp_path):
    """The tiny model's embedding of an unknown word has length zero."""
    vectors = encoder(bundle, tmp_path).encode_words(["red", "nonsense"], TEMPLATES)
    assert not vectors["nonsense"].any()
    packs = {"words": vectors, "none": {"nonsense": vectors["nonsense"]}}
    packed = add_packs(bundle, packs, key="key", out=tmp_path / "p.ovs")
    assert list(Packs(packed).lookup("key", ["red", "nonsense"], width=6)) == ["red"]
    assert "vocabularies/none.npz" not in packed.manifest.files
    steps = []
    encoder(bundle, tmp_path).encode_words(["red", "nonsense"], TEMPLATES, done=steps.append)
    assert steps == [1, 1]  # the other word's is used
    assert not list(tmp_path.rglob("*.damaged-*"))
