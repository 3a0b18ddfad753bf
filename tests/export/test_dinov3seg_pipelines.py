"""Each graph of dinov3.seg, before it is a graph, computes what the network's own part computes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.dinov3seg import local_global
from ovsdino.dinov3seg.checkpoint import read_model
from ovsdino.dinov3seg.correlation import correlate, text_halves
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.checkpoint import save_model
from ovsdino_export.dinov3seg.parity import GraphDinov3seg, torch_run
from ovsdino_export.dinov3seg.pipelines import make_stages, spec
from ovsdino_export.dinov3seg.rewrite import RowwiseGroupNorm
from ovsdino_export.graphs.graph import export_graph
from ovsdino_export.rewrite.half_precision import TYPES
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine
from tests.export.dinov3seg_small import MICRO, VARIANTS, make_network

CLOSE = {"rtol": 1e-3, "atol": 2e-5}  # FP32, through some dozen layers
ALL = ["vision", "whole", "guidance", "refine", "late", "decoder"]


@pytest.fixture(scope="module")
def network() -> Dinov3Seg:
    return make_network(MICRO)


@pytest.fixture(scope="module")
def view() -> Tensor:
    return torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(1))


def text(count: int, width: int = 128) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(count))


@torch.inference_mode()
@pytest.mark.parametrize(
    ("variant", "classes"), [("whole", 1), ("whole", 40), *((variant, 3) for variant in VARIANTS)]
)
def test_the_chain_gives_the_networks_probabilities(variant: str, classes: int, view: Tensor) -> None:
    """40 classes are more than `pad_length`: the best 8 go on."""
    config = VARIANTS[variant]
    network = make_network(config)
    stages = make_stages(network)
    chain = GraphDinov3seg(config, list(stages), torch_run(stages, "fp32"))
    words = text(classes, config.vlm.text_width)
    expected = local_global.predict(network, view, words)
    torch.testing.assert_close(local_global.predict(chain, view, words), expected, **CLOSE)


@pytest.mark.parametrize(
    ("variant", "absent"),
    [
        ("whole", set()),
        ("no-prior", {"guidance"}),
        ("no-early", {"refine"}),
        ("no-late", set()),
        ("shrunk-whole", {"whole"}),
    ],
)
def test_an_ablation_lacks_its_graph(variant: str, absent: set[str]) -> None:
    assert list(make_stages(make_network(VARIANTS[variant]))) == [name for name in ALL if name not in absent]


def test_graphs_have_no_inputs_that_an_ablation_lacks() -> None:
    without_prior = make_stages(make_network(VARIANTS["no-prior"]))
    assert list(without_prior["late"].spec.inputs) == ["features", "text"]
    assert list(without_prior["decoder"].spec.inputs) == ["costs"]
    without_late = make_stages(make_network(VARIANTS["no-late"]))
    assert without_late["guidance"].spec.outputs == ("fine1", "fine2")
    assert list(without_late["late"].spec.inputs) == ["features", "text"]


@torch.inference_mode()
def test_late_meets_text_in_cosines(network: Dinov3Seg) -> None:
    """Features and text of any length give the same costs."""
    late = make_stages(network)["late"].build(precision="fp32", fp32=())
    features, image, words = torch.randn(1, 64, 6, 6), torch.randn(1, 8, 6, 6), text(3)
    costs = late(features, words, image)
    lengths = torch.rand(3, 1) + 0.5
    torch.testing.assert_close(late(features * 3, words * lengths, image), costs, **CLOSE)

    halves = text_halves(words, network.config)
    known = torch.ones(1, 3, dtype=torch.bool)
    own = network.refine_costs(correlate(features, halves), image, halves=halves[None], known=known)[0]
    torch.testing.assert_close(costs, own, **CLOSE)


@torch.inference_mode()
def test_half_precision_rounds_products_and_not_norms(network: Dinov3Seg, view: Tensor) -> None:
    stages = make_stages(network)
    for name, stage in stages.items():
        half = stage.build(precision="fp16", fp32=())
        kinds = {
            type(module).__name__: parameter.dtype
            for module in half.modules()
            for parameter in module.parameters(recurse=False)
        }
        assert {kind for kind, dtype in kinds.items() if dtype == torch.float32} <= {
            "LayerNorm",
            "GroupNorm",
            "RowwiseGroupNorm",
            "RMSNorm",
        }, name
        assert TYPES["fp16"] in kinds.values()
    whole = stages["whole"].build(precision="fp16", fp32=())(view)
    cosine = F.cosine_similarity(whole, network.vlm.vision(view), dim=1)
    assert whole.dtype == torch.float32
    assert cosine.min() > 0.999


def test_a_picture_of_another_size_is_refused(network: Dinov3Seg) -> None:
    with pytest.raises(ValueError, match=r"the exported grid is \(4, 4\) patches, got \(6, 6\)"):
        make_stages(network)["vision"].build(precision="fp32", fp32=())(torch.zeros(1, 3, 96, 96))


def test_the_network_is_left_as_it_was(network: Dinov3Seg, view: Tensor) -> None:
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for stage in make_stages(network).values():
        stage.build(precision="fp16", fp32=())
    after = network.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert network.vlm.vision(view).dtype == torch.float32
    assert replace(network.config) == MICRO


@torch.inference_mode()
def test_a_checkpoint_with_clip_comes_back(tmp_path: Path, view: Tensor) -> None:
    """open_clip computes a mask that is in no checkpoint."""
    network = make_network(VARIANTS["clip"])
    save_model(network, tmp_path / "clip.safetensors")
    again = read_model(VARIANTS["clip"], tmp_path / "clip.safetensors")
    words = network.vlm.text(torch.tensor([[49406, 320, 1125, 49407, 0]]))
    assert torch.equal(again.vlm.text(torch.tensor([[49406, 320, 1125, 49407, 0]])), words)
    assert torch.equal(again(view, words), network(view, words))


@torch.inference_mode()
def test_group_norm_of_a_large_map_is_as_exact_in_onnx_runtime_as_in_torch(tmp_path: Path) -> None:
    """ONNX Runtime's own InstanceNormalization, which `nn.GroupNorm` becomes, is not."""
    x = torch.randn(1, 4, 1024, 1024, generator=torch.Generator().manual_seed(0)) + 3
    norm = nn.GroupNorm(1, 4)
    nn.init.normal_(norm.weight, generator=torch.Generator().manual_seed(1))
    expected = norm.double()(x.double())
    for layer, minimum, max_count in ((norm.float(), 2e-5, 1.0), (RowwiseGroupNorm(norm), 0.0, 2e-6)):
        graph = export_graph(nn.Sequential(layer), (x,), spec({"x": {}}, "y"))
        onnx.save(graph, tmp_path / "norm.onnx")
        actual = OnnxRuntimeEngine(tmp_path / "norm.onnx").run({"x": x.numpy()})["y"]
        error = (torch.from_numpy(actual) - expected).abs().max() / expected.abs().max()
        assert minimum <= error <= max_count
