"""FP16 where it is enough, FP32 where it is not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from ovsdino_export.pipeline import VisionPipeline
from ovsdino_export.rewrite.half_precision import NORMS, Float32Norm, to_half
from ovsdino_runtime.base.errors import OvsdinoError


@torch.no_grad()
def test_products_are_half_and_norms_are_not(tiny):
    half = to_half(tiny)
    for module in half.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            assert module.weight.dtype == torch.float16
        if isinstance(module, NORMS):
            assert module.weight.dtype == torch.float32
    originals = [m for m in tiny.modules() if isinstance(m, NORMS)]
    wrapped = [m.norm for m in half.modules() if isinstance(m, Float32Norm)]
    assert len(originals) == len(wrapped) > 0
    for original, copy in zip(originals, wrapped, strict=True):
        torch.testing.assert_close(copy.weight, original.weight, rtol=0, atol=0)  # not rounded on the way
    assert tiny.projector.weight.dtype == torch.float32, "the original was changed"


@torch.no_grad()
@pytest.mark.parametrize("norm", [nn.LayerNorm(8), nn.GroupNorm(2, 8)])
def test_a_norm_of_large_values_stays_finite(norm):
    x = (torch.randn(4, 8, generator=torch.Generator().manual_seed(0)) * 2e4).half()
    got = to_half(nn.Sequential(norm))(x)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), norm(x.float()), rtol=1e-3, atol=1e-3)


def test_a_weight_beyond_fp16_is_refused_by_name():
    layer = nn.Sequential(nn.Linear(2, 2))
    nn.init.constant_(layer[0].weight, 1e5)
    with pytest.raises(OvsdinoError, match=r"weight 0\.weight: 1e\+05 is beyond FP16's 65504"):
        to_half(layer)


@torch.no_grad()
def test_the_pipelines_give_unit_features_close_to_the_model(tiny, pixels):
    expected = F.normalize(tiny(pixels), dim=1)
    for precision, minimum in (("fp32", 1 - 1e-6), ("fp16", 0.9995)):
        features = VisionPipeline(tiny, precision)(pixels)
        assert features.dtype == torch.float32
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3, 4, 4), rtol=1e-5, atol=1e-5)
        assert (features * expected).sum(1).min() > minimum
