"""How the taps of the backbone are mixed before training."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovsdino.network.config import ModelConfig
from ovsdino.network.structure_encoder import GatedFusion


@pytest.mark.parametrize("aggregation", ["free", "softmax"])
def test_an_untrained_fusion_is_the_mean_of_the_taps(tiny: ModelConfig, aggregation: str) -> None:
    torch.manual_seed(0)
    fusion = GatedFusion(replace(tiny, aggregation=aggregation)).eval()
    taps = [torch.randn(1, tiny.backbone_width, 4, 4) for _ in tiny.taps]
    with torch.no_grad():
        parts = [list(fusion.transforms)[i % len(fusion.transforms)](tap) for i, tap in enumerate(taps)]
        torch.testing.assert_close(fusion(taps), torch.stack(parts).mean(dim=0))
