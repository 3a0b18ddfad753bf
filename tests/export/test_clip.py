"""CLIP's text half without open_clip: the same numbers for the same words."""
# ruff: noqa: RUF001 - the characters are ambiguous on purpose

import numpy as np
import onnxruntime
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer
from open_clip.transformer import TextTransformer
from tokenizers import Tokenizer

from ovsdino.network.clip_text import VOCABULARY, ClipTextTower
from ovsdino_export.clip import clip_tokenizer
from ovsdino_export.graphs.graph import TEXT, export_graph
from ovsdino_export.pipeline import TextPipeline

TRICKY = [
    "cat", "A photo of a  Dog.", "the dog's bowl", "they'll we've I'm he'd", "'S 'LL upper",
    "t-shirt K-9 #5 50% $1", "café CAFÉ cafe\u0301", "naïve résumé", "日本語 テスト", "привет мир",
    "ΑΒΓ Σ", "ß straße", "İstanbul", "12345 3rd ½ cup m²", "emoji 😀👍🏽 ok", "tab\tnew\nline",
    "  lead and trail  ", "ﬁre ﬂoor oﬃce", "“quoted” ‘it’s’",
    "a&amp;b &lt;c&gt; &quot;d&quot; e&#39;s", "semi;colon,comma.period!", "hyphen-ated_under", "",
    "...", "!!!", "ｆｕｌｌ\u3000ＷＩＤＴＨ！", "non\u00a0breaking", "em — dash…",
    "soft\u00adhyphen zero\u200bwidth", "<start_of_text>", "<end_of_text> cat", "http://a.b/c?d=e",
    "汽车|car", "a" * 400, "word " * 100,
]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return clip_tokenizer()


@pytest.fixture(scope="module")
def reference():
    return SimpleTokenizer()


@pytest.mark.parametrize("text", TRICKY, ids=range(len(TRICKY)))
def test_the_tokenizer_equals_open_clips(tokenizer, reference, text):
    ids = tokenizer.encode(text).ids
    assert ids + [0] * (77 - len(ids)) == reference(text)[0].tolist()


def test_the_tokenizer_survives_its_file_and_pads_with_zero(tokenizer, reference):
    loaded = Tokenizer.from_str(tokenizer.to_str())
    phrases = ["cat", "a photo of a dog"]
    ids = [encoding.ids for encoding in loaded.encode_batch(phrases)]
    assert len(ids[0]) == len(ids[1])
    np.testing.assert_array_equal(ids, reference(phrases)[:, : len(ids[0])])


@torch.no_grad()
def test_the_exported_tower_equals_the_original_at_any_length(reference):
    torch.manual_seed(0)
    tower = ClipTextTower().eval()
    tower.clip = TextTransformer(
        context_length=77, vocab_size=VOCABULARY, width=32, heads=2, layers=2, output_dim=16
    ).eval()
    example = reference(["a photo of a cat", "tree"])[:, :7]
    graph = export_graph(TextPipeline(tower), example, TEXT)
    session = onnxruntime.InferenceSession(graph.SerializeToString())
    for phrases, length in ((["sky"], 3), (["a bus", "a red bus", "car"], 5), (["word " * 100, "cat"], 77)):
        ids = reference(phrases)[:, :length]
        got = session.run(None, {"ids": ids.numpy()})[0]
        np.testing.assert_allclose(got, tower(ids).numpy(), rtol=0, atol=2e-6)
