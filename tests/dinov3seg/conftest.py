"""What every test of dinov3.seg may ask for."""

from __future__ import annotations

import pytest
import torch

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.model import Dinov3Seg
from tests.dinov3seg.small import SMALL, randomise


@pytest.fixture
def config() -> Dinov3segConfig:
    """dinov3.seg with everything it has, on 6 x 6 patches."""
    return SMALL


@pytest.fixture
def model(config: Dinov3segConfig) -> Dinov3Seg:
    """A small network with random weights."""
    torch.manual_seed(0)
    network = Dinov3Seg(config).eval()
    for part in (network.early, network.late, network.decoder, network.cost_embedding):
        randomise(part)
    return network
