"""INT8 graphs: what is quantized, what they give, and what is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ovsdino_export.cli import export
from ovsdino_export.engine_build import build_engines, choose_target
from ovsdino_export.export import ExportRequest, export_bundle
from ovsdino_export.graph import VISION
from ovsdino_export.parity import THRESHOLDS, ParityError, onnx_encoder
from ovsdino_export.quantize import quantize, require_miou
from ovsdino_runtime.bundle import load_bundle
from ovsdino_runtime.engines import open_vision
from ovsdino_runtime.errors import EngineError


def test_products_with_weights_are_quantized_and_labels_stay(graphs, pixels, tmp_path):
    quantized = quantize(graphs["fp32"])
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("MatMulInteger") >= 4 * 6  # four linear layers in each block
    assert "MatMul" in kinds  # the attention's own products have no weights
    onnx.save(quantized, tmp_path / "int8.onnx")
    onnx.save(graphs["fp32"], tmp_path / "fp32.onnx")
    one, other = (
        onnx_encoder(tmp_path / f"{name}.onnx", VISION)(pixels.numpy()) for name in ("fp32", "int8")
    )
    cosine = (one * other).sum(1)
    assert 0.97 < cosine.mean() < 1 - 1e-6  # and it is another graph


def test_a_graph_without_products_is_refused(graphs):
    bare = onnx.ModelProto()
    bare.CopyFrom(graphs["fp32"])
    identity = onnx.helper.make_node("Identity", ["pixels"], ["features"])
    del bare.graph.node[:], bare.graph.initializer[:], bare.graph.value_info[:]
    bare.graph.node.append(identity)
    bare.graph.output[0].CopyFrom(bare.graph.input[0])
    bare.graph.output[0].name = "features"
    with pytest.raises(ParityError, match="no product with constant weights"):
        quantize(bare)


def test_a_drop_of_miou_is_refused():
    require_miou(40.0, 39.1)
    require_miou(40.0, np.float64(41))
    with pytest.raises(
        ParityError, match=r"INT8 has 38\.50 mIoU, FP32 40\.00: a drop of 1\.50, at most 1\.0"
    ):
        require_miou(40.0, 38.5)


def test_the_command_adds_the_other_precisions(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    # 3 photos have 48 positions and the weights are random: one label that changes is already 2.1 %.
    monkeypatch.setitem(THRESHOLDS, "vision.int8", replace(THRESHOLDS["vision.int8"], label_agreement=0.9))
    arguments = ["--model", "tiny", "--bf16", "--int8", "--out", tmp_path, "--photos", weights / "photos"]
    arguments += [
        "--checkpoint",
        weights / "tiny.safetensors",
        "--text-checkpoint",
        weights / "text.safetensors",
    ]
    result = CliRunner().invoke(export, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    bundle = load_bundle(tmp_path / "tiny.ovs")
    assert list(bundle.manifest.graphs) == ["vision", "vision.bf16", "vision.int8", "text"]
    assert bundle.manifest.parity["vision.int8"].label_agreement >= 0.9
    assert bundle.manifest.graphs["vision.bf16"].fp32 == ()
    engine = open_vision(bundle, device="cpu", threads=1, precision="int8")
    assert "ONNX Runtime" in engine.description
    with pytest.raises(EngineError, match="bf16 is for TensorRT"):
        open_vision(bundle, device="cpu", threads=1, precision="bf16")
    pytest.importorskip("tensorrt_rtx")
    (record,) = build_engines(bundle, choose_target("tensorrt-rtx", "sm_89"))
    assert record.layers["MATRIX_MULTIPLY BF16"] > 0
    assert "NORMALIZATION BF16" not in record.layers


def test_two_labels_in_a_hundred_may_change():
    assert THRESHOLDS["vision.int8"].label_agreement == 0.98


def test_labels_that_change_refuse_int8(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "vision.int8", replace(THRESHOLDS["vision.int8"], label_agreement=1.01))
    request = ExportRequest(
        "tiny", weights / "tiny.safetensors", weights / "text.safetensors", out=tmp_path, int8=True
    )
    with pytest.raises(ParityError, match=r"vision\.int8\.onnx differs .*label_agreement .*without --int8"):
        export_bundle(replace(request, photos=weights / "photos"))
    assert not list(tmp_path.iterdir())
