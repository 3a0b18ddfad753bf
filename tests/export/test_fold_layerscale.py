"""Between products: the same numbers from less work, and ONNX Runtime does fuse what is written for it."""

import onnx
import onnxruntime as ort
import pytest
import timm
import torch
from timm.layers.layer_scale import LayerScale
from torch import nn

from ovsdino_export.export import export_vision
from ovsdino_export.rewrite.fold_layerscale import FusableGelu, fold_layerscale
from ovsdino_export.rewrite.rewrite import restate


@pytest.fixture
def scaled():
    """A ViT whose LayerScales are far from one another, as DINOv2's are."""
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=0, init_values=1.0).eval()
    with torch.no_grad():
        for module in vit.modules():
            if isinstance(module, LayerScale):
                module.gamma.copy_(10 ** (4 * torch.rand_like(module.gamma) - 4))
    return vit


def test_folded_scales_leave_the_numbers_as_they_are(scaled):
    before = restate(scaled)
    pixels = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        expected = before(pixels)
        actual = fold_layerscale(restate(scaled))(pixels)
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)
    assert sum(isinstance(part, LayerScale) for part in before.modules()) == 12


def test_no_scale_and_no_other_gelu_is_left(scaled):
    parts = list(fold_layerscale(restate(scaled)).modules())
    assert not any(isinstance(part, LayerScale | nn.GELU) for part in parts)
    assert sum(isinstance(part, FusableGelu) for part in parts) == 6


def test_gelu_is_torchs():
    x = torch.linspace(-8, 8, 1001)
    torch.testing.assert_close(FusableGelu()(x), nn.functional.gelu(x), rtol=0, atol=1e-6)


def test_onnx_runtime_makes_one_of_bias_and_gelu(tiny, tmp_path):
    export_vision(tiny, tmp_path, plans={"fp32": ()}, report=lambda _: None)
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(tmp_path / "vision.onnx", options, providers=["CPUExecutionProvider"])
    kinds = [node.op_type for node in onnx.load(tmp_path / "optimised.onnx").graph.node]
    assert kinds.count("BiasGelu") == 6  # one in each block
