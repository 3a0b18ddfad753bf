"""A tiny model of every part that the presets have, and graphs exported from it once."""

import string
from dataclasses import replace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from ovsdino.network.checkpoint import save_model
from ovsdino.network.config import NANO, PRESETS
from ovsdino.network.model import OVSDINO
from ovsdino.network.text_tower import TextConfig, TextTower, save_text_tower
from ovsdino_export.graphs.graph import VISION, export_graph
from ovsdino_export.photos import paint
from ovsdino_export.pipeline import VisionPipeline

TINY = replace(
    NANO,
    name="tiny",
    backbone="test_vit",
    backbone_width=64,
    backbone_depth=6,
    taps=(2, 4, 6),
    trained_blocks=1,
    position_grid=6,  # of the weights; the windows have 4 patches a side, so the embedding is resized
    image_size=64,
    encoder_width=32,
    structure_channels=32,
    gate_width=32,
    norm_groups=8,
    text_width=24,
)
PIECES = [
    "[PAD]",
    "[UNK]",
    *string.ascii_lowercase,
    *(f"##{c}" for c in string.ascii_lowercase),
    "cat",
    "sky",
]
TINY_TEXT = TextConfig(
    pieces=len(PIECES), piece_width=16, width=32, heads=2, hidden=64, layers=2, context=12, text_width=24
)


def liven(module):
    """Give every weight that starts at 0 or 1 another value, so that nothing is the identity."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return module


@pytest.fixture(scope="session")
def tiny():
    torch.manual_seed(0)
    return liven(OVSDINO(TINY)).eval()


@pytest.fixture(scope="session")
def tower():
    torch.manual_seed(0)
    tower = liven(TextTower(TINY_TEXT)).eval()
    with torch.no_grad():  # spread the words, as the real tower's centre does; untrained ones lie on a point
        tower.centre += tower.encode_raw(torch.randint(2, len(PIECES), (200, 6))).mean(0)
    return tower


@pytest.fixture(scope="session")
def pixels():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="session")
def graphs(tiny):
    """The vision graphs by precision, traced with two windows at once."""
    example = torch.zeros(2, 3, 64, 64)
    return {
        precision: export_graph(VisionPipeline(tiny, precision), example, VISION, precision=precision)
        for precision in ("fp32", "fp16")
    }


@pytest.fixture(scope="session")
def weights(tiny, tower, tmp_path_factory):
    """A folder with what an export reads: checkpoint, text weights, tokenizer, photos."""
    folder = tmp_path_factory.mktemp("weights")
    save_model(tiny, folder / "tiny.safetensors", dtype=torch.float16)
    save_text_tower(tower, folder / "text.safetensors")
    tokenizer = Tokenizer(WordPiece({piece: i for i, piece in enumerate(PIECES)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(TINY_TEXT.context)
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    from PIL import Image

    (folder / "photos").mkdir()
    for seed in range(3):
        Image.fromarray(np.ascontiguousarray(paint(seed, 90)[:, :70])).save(folder / "photos" / f"{seed}.png")
    return folder


@pytest.fixture(scope="module", autouse=True)
def tiny_preset():
    """Make the tiny model known by name, to the tests of this folder alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", TINY)
        yield TINY
