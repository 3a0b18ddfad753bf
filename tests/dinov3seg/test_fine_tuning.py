"""After steps of AdamW with weight decay, only queries and values of the VLM have moved."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovsdino.dinov3seg.config import VlmConfig
from ovsdino.dinov3seg.fine_tuning import QueryValueTuning
from ovsdino.dinov3seg.presets import DINOTXT_TINY
from ovsdino.dinov3seg.vlm import Vlm
from tests.dinov3seg.small import SMALL_CLIP, SMALL_VLM

ATTENTIONS = {"small": 12 + 2 + 2, "dinotxt-tiny": 12 + 2 + 3, "small-clip": 10 + 2}


@pytest.mark.parametrize("config", [SMALL_VLM, DINOTXT_TINY, SMALL_CLIP], ids=lambda config: config.name)
def test_frozen_rows_are_equal_bit_by_bit(config: VlmConfig) -> None:
    torch.manual_seed(0)
    vlm = Vlm(replace(config, head_drop_path=0.0)).train()  # a dropped block would learn nothing
    before = {name: value.clone() for name, value in vlm.state_dict().items()}
    tuning = QueryValueTuning(vlm)
    optimizer = torch.optim.AdamW(tuning.parameters(), lr=1e-2, weight_decay=0.1)
    tuning.watch(optimizer)
    for _ in range(2):
        optimizer.zero_grad()
        text = vlm.text(torch.randint(1, 100, (3, 5)))
        (vlm(torch.randn(1, 3, 64, 64), text).square().sum() + text[:, 0].sum()).backward()
        for weight in tuning.parameters():
            assert weight.grad is not None
            assert weight.grad.abs().sum() > 0
            if weight.shape[0] == 3 * weight.shape[1]:
                assert weight.grad.chunk(3)[1].abs().max() == 0  # no part in a clipped norm
        optimizer.step()
    moved = 0
    for name, value in vlm.state_dict().items():
        old = before[name]
        if name.endswith(("attn.qkv.weight", "in_proj_weight")):
            for part, (new_rows, old_rows) in enumerate(zip(value.chunk(3), old.chunk(3), strict=True)):
                assert torch.equal(new_rows, old_rows) == (part == 1), name
            moved += 1
        elif name.endswith(("attention.query.weight", "attention.value.weight")):
            assert not torch.equal(value, old), name
            moved += name.endswith("query.weight")
        else:
            assert torch.equal(value, old), name
    assert moved == ATTENTIONS[config.name]
