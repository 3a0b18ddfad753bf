"""CLIP's text tower against open_clip's own forward, and its checkpoint layout."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from ovsdino.network.checkpoint import CheckpointError
from ovsdino.network.clip_text import ClipTextTower, load_clip_text

START, END = 49406, 49407


@pytest.fixture(scope="module")
def tower() -> ClipTextTower:
    torch.manual_seed(0)
    return ClipTextTower().eval()


@torch.inference_mode()
def test_equals_open_clip_at_any_length(tower: ClipTextTower) -> None:
    assert sum(p.numel() for p in tower.parameters()) == pytest.approx(63.4e6, rel=0.01)
    short = torch.tensor([[START, 320, 2368, END], [START, 1929, END, 0]])
    expected = F.normalize(tower.clip(F.pad(short, (0, 77 - 4))), dim=-1)
    torch.testing.assert_close(tower(short), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(tower(F.pad(short, (0, 30))), expected, rtol=1e-4, atol=1e-5)


def test_whole_clip_checkpoint_loads_its_text_half(tower: ClipTextTower, tmp_path: Path) -> None:
    state = dict(tower.clip.state_dict())
    state["visual.conv1.weight"] = torch.zeros(1)
    state["logit_scale"] = torch.zeros(())
    torch.save(state, tmp_path / "clip.pt")
    again = load_clip_text(tmp_path / "clip.pt")
    torch.testing.assert_close(again.clip.text_projection, tower.clip.text_projection, rtol=0, atol=0)
    del state["ln_final.bias"]
    torch.save(state, tmp_path / "clip.pt")
    with pytest.raises(CheckpointError, match=r"not a checkpoint of CLIP ViT-B/16's text encoder: 1 missing"):
        load_clip_text(tmp_path / "clip.pt")
