"""Small networks that every core test can afford."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from ovsdino.network.config import NANO, ModelConfig
from ovsdino.network.model import OVSDINO


@pytest.fixture
def tiny() -> ModelConfig:
    """nano on a 64 px window: the same blocks, 16 patches."""
    return replace(NANO, name="tiny", image_size=64, position_grid=4, encoder_width=64, norm_groups=16)


@pytest.fixture
def model(tiny: ModelConfig) -> OVSDINO:
    """A tiny network with random weights and an open gate."""
    torch.manual_seed(0)
    network = OVSDINO(tiny).eval()
    assert network.gate is not None
    torch.nn.init.constant_(network.gate.alpha, 0.3)
    return network
