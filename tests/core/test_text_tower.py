"""The text tower: its equations, its pads, its file, and its ONNX graph at other sizes than traced."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch.nn import functional as F

from ovsdino.network.checkpoint import TEXT, TOKENIZER, CheckpointError, packaged_file
from ovsdino.network.text_tower import (
    SelfAttention,
    TextConfig,
    TextTower,
    load_text_tower,
    save_text_tower,
)

TINY = TextConfig(pieces=50, piece_width=8, width=16, heads=4, hidden=24, layers=2, context=12, text_width=20)
ORDER_TOLERANCE = 1e-6  # FP32 sums in another order


@pytest.fixture
def tower() -> TextTower:
    torch.manual_seed(0)
    tower = TextTower(TINY).eval()
    tower.centre.copy_(F.normalize(torch.randn(20), dim=0) * 0.4)
    return tower


def phrases(batch: int, tokens: int, seed: int = 1) -> torch.Tensor:
    return torch.randint(1, TINY.pieces, (batch, tokens), generator=torch.Generator().manual_seed(seed))


def test_nano_fits_8_mib_in_fp16_with_its_token_table():
    tower = TextTower(TextConfig())
    assert 2 * sum(value.numel() for value in tower.state_dict().values()) <= 8 * 2**20


def test_embeddings_are_unit_length_and_centred(tower):
    ids = phrases(5, 7)
    raw, out = tower.encode_raw(ids), tower(ids)
    assert out.shape == (5, 20)
    assert out.dtype == torch.float32
    torch.testing.assert_close(raw.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(out, F.normalize(raw - tower.centre, dim=-1))


def test_pads_change_nothing(tower):
    ids = phrases(3, 4)
    padded = F.pad(ids, (0, 5), value=TINY.pad)
    torch.testing.assert_close(tower(padded), tower(ids), rtol=0, atol=ORDER_TOLERANCE)


def test_a_phrase_is_encoded_alike_alone_and_in_a_batch(tower):
    long, short = phrases(1, 9), phrases(1, 2, seed=2)
    together = tower(torch.cat([long, F.pad(short, (0, 7), value=TINY.pad)]))
    torch.testing.assert_close(together, torch.cat([tower(long), tower(short)]), rtol=0, atol=ORDER_TOLERANCE)


def test_order_of_words_matters(tower):
    ids = phrases(1, 6)
    assert not torch.allclose(tower(ids), tower(ids.flip(1)), atol=1e-3)


def test_an_empty_phrase_is_finite(tower):
    assert tower(torch.full((1, 3), TINY.pad)).isfinite().all()


def test_attention_equals_pytorchs():
    torch.manual_seed(0)
    attention, x = SelfAttention(16, 4), torch.randn(2, 5, 16)
    reference = torch.nn.MultiheadAttention(16, 4, batch_first=True)
    parts = (attention.query, attention.key, attention.value)
    reference.in_proj_weight.data = torch.cat([part.weight for part in parts])
    reference.in_proj_bias.data = torch.cat([part.bias for part in parts])
    reference.out_proj.load_state_dict(attention.out.state_dict())
    pads = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    expected, _ = reference(x, x, x, key_padding_mask=pads)
    mask = pads[:, None, None] * -1e4
    torch.testing.assert_close(attention(x, mask), expected, rtol=0, atol=ORDER_TOLERANCE)


def test_round_trip(tower, tmp_path: Path):
    save_text_tower(tower, tmp_path / "t.safetensors", dtype=torch.float32)
    loaded = load_text_tower(tmp_path / "t.safetensors")
    assert loaded.config == TINY
    assert not loaded.training
    torch.testing.assert_close(loaded(phrases(2, 5)), tower(phrases(2, 5)), rtol=0, atol=0)
    save_text_tower(loaded, tmp_path / "half.safetensors")
    assert {value.dtype for value in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize(
    ("change", "config", "message"),
    [
        ({}, None, "no text tower's configuration inside"),
        ({}, {"pieces": 3}, "missing or unknown fields"),
        ({"project.bias": None}, "own", r"1 missing \(project.bias\)"),
        ({"centre": torch.zeros(3)}, "own", r"1 mis-shaped \(centre \(3,\) instead of \(20,\)\)"),
        ({"extra": torch.zeros(1)}, "own", r"1 unexpected \(extra\)"),
    ],
)
def test_refuses_other_weights(tower, tmp_path: Path, change, config, message):
    path = tmp_path / "t.safetensors"
    save_text_tower(tower, path)
    tensors = {key: value for key, value in (load_file(path) | change).items() if value is not None}
    own = {name: getattr(TINY, name) for name in TINY.__dataclass_fields__}
    save_file(tensors, path, metadata=config and {"config": json.dumps(own if config == "own" else config)})
    with pytest.raises(CheckpointError, match=message):
        load_text_tower(path)


def test_refuses_a_missing_file(tmp_path: Path):
    with pytest.raises(CheckpointError, match="no checkpoint at"):
        load_text_tower(tmp_path / "none.safetensors")


def test_refuses_impossible_shapes():
    with pytest.raises(ValueError, match="width must be a multiple of heads=3, got 16"):
        TextConfig(width=16, heads=3)
    with pytest.raises(ValueError, match=r"must be positive, got \{'layers': 0\}"):
        TextConfig(layers=0)


@pytest.mark.filterwarnings("ignore")  # of the exporter's own dependencies
def test_onnx_equals_torch_at_other_sizes_than_traced(tower, tmp_path: Path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    axes = {"ids": {0: torch.export.Dim("batch"), 1: torch.export.Dim("tokens", max=TINY.context)}}
    program = torch.onnx.export(
        tower,
        (phrases(3, 5),),
        dynamo=True,
        opset_version=18,
        dynamic_shapes=axes,
        input_names=["ids"],
        output_names=["embeddings"],
        verbose=False,
    )
    assert program is not None
    program.save(tmp_path / "text.onnx")
    session = runtime.InferenceSession(tmp_path / "text.onnx", providers=["CPUExecutionProvider"])
    for batch, tokens in ((1, 1), (1, 12), (7, 2), (4, 9)):
        ids = phrases(batch, tokens)
        ids[-1, (tokens + 1) // 2 :] = TINY.pad
        (out,) = session.run(None, {"ids": ids.numpy()})
        np.testing.assert_allclose(out, tower(ids).detach().numpy(), rtol=0, atol=1e-5)


TOWER, PIECES = packaged_file(TEXT), packaged_file(TOKENIZER)


def embed(texts: list[str]) -> np.ndarray:
    tokenizer = Tokenizer.from_file(str(PIECES))
    ids = torch.tensor([encoded.ids for encoded in tokenizer.encode_batch(texts)])
    with torch.inference_mode():
        return load_text_tower(TOWER)(ids).numpy()


def test_nanos_synonyms_are_neighbours():
    names = [
        "car",
        "dog",
        "sofa",
        "bus",
        "cat",
        "chair",
        "horse",
        "tree",
        "building",
        "bottle",
        "boat",
        "person",
    ]
    asked = {"automobile": "car", "puppy": "dog", "couch": "sofa", "coach": "bus", "kitten": "cat"}
    asked |= {"A photo of a Pony.": "horse", "oak": "tree", "skyscraper": "building", "ship": "boat"}
    near = (embed(list(asked)) @ embed(names).T).argmax(1)
    assert {word: names[index] for word, index in zip(asked, near, strict=True)} == asked


def test_nanos_tokenizer_truncates_pads_and_spells_unknown_words():
    tokenizer = Tokenizer.from_file(str(PIECES))
    config = load_text_tower(TOWER).config
    assert tokenizer.get_vocab_size() == config.pieces
    assert tokenizer.token_to_id("[PAD]") == config.pad
    short, long = tokenizer.encode_batch(["Zxqwv-9", "dog " * 100])
    assert len(short.ids) == len(long.ids) == config.context
    assert "[UNK]" not in short.tokens
