"""INT8 graphs: what is quantized, in how many passes, what they give, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_export.cli import export
from ovsdino_export.engines.build import build_engines, choose_target
from ovsdino_export.export import ExportRequest, export_bundle
from ovsdino_export.graphs.graph import VISION
from ovsdino_export.parity import THRESHOLDS, ParityError, onnx_encoder
from ovsdino_export.precision import int8_ladder
from ovsdino_export.precision.quantize import products, quantize, rounding_noise
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.engines.onnxruntime import open_vision


def encode(model, pixels, folder):
    file = folder / "graph.onnx"
    onnx.save(model, file)
    return onnx_encoder(file, VISION)(pixels.numpy())


def one_product(weight):
    """A graph of one product: (n, K) @ (K, N)."""
    k, n = weight.shape
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["rows", k])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["rows", n])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)


def by_hand(x, weight, passes):
    """The same product in whole numbers, step by step."""
    scale = np.abs(weight).max(0) / 127
    columns = np.round(weight / scale)
    result, rest = np.zeros((len(x), weight.shape[1])), x.astype(np.float64)
    for _ in range(passes):
        low, high = min(rest.min(), 0), max(rest.max(), 0)
        step = (high - low) / 255
        zero = np.round(-low / step)
        rounded = (np.clip(np.round(rest / step) + zero, 0, 255) - zero) * step
        result += (rounded @ columns) * scale
        rest = rest - rounded
    return result


@pytest.mark.parametrize("passes", [1, 2])
def test_a_product_is_that_of_whole_numbers(tmp_path, passes):
    random = np.random.default_rng(passes)
    weight = random.normal(size=(32, 8)).astype(np.float32)
    x = random.normal(size=(16, 32)).astype(np.float32)
    x[3, 5] = 40  # an outlier, which spoils the steps of all the others
    onnx.save(quantize(one_product(weight), twice=["y"] if passes == 2 else []), tmp_path / "int8.onnx")
    from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine

    found = OnnxRuntimeEngine(tmp_path / "int8.onnx").run({"x": x})["y"]
    assert np.abs(found - by_hand(x, weight, passes)).max() < 2e-4 * np.abs(found).max()
    error = np.abs(found - x @ np.float32(np.round(weight / (s := abs(weight).max(0) / 127)) * s)).max()
    assert error > 0.05 if passes == 1 else error < 0.005  # what the second pass is for


def test_a_column_of_zeros_stays_zero(tmp_path):
    weight = np.ones((4, 2), np.float32)
    weight[:, 1] = 0
    onnx.save(quantize(one_product(weight)), tmp_path / "int8.onnx")
    from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine

    found = OnnxRuntimeEngine(tmp_path / "int8.onnx").run({"x": np.ones((1, 4), np.float32)})["y"]
    assert np.allclose(found, [[4, 0]])


def test_products_with_weights_are_quantized_and_labels_stay(graphs, pixels, tmp_path):
    before = graphs["fp32"].SerializeToString(deterministic=True)
    quantized = quantize(graphs["fp32"])
    assert graphs["fp32"].SerializeToString(deterministic=True) == before
    kinds = [node.op_type for node in quantized.graph.node]
    assert kinds.count("MatMulInteger") == 4 * 6  # four linear layers in each block
    assert "MatMul" in kinds  # the attention's own products have no weights
    expected = encode(graphs["fp32"], pixels, tmp_path)
    cosine = (encode(quantized, pixels, tmp_path) * expected).sum(1)
    assert 0.97 < cosine.mean() < 1 - 1e-6  # and it is another graph
    names = [node.output[0] for node in products(graphs["fp32"])]
    twice = quantize(graphs["fp32"], twice=names)
    assert [node.op_type for node in twice.graph.node].count("MatMulInteger") == 2 * len(names)
    assert (encode(twice, pixels, tmp_path) * expected).sum(1).mean() > cosine.mean()


def test_noise_is_the_share_that_rounding_takes():
    values = np.linspace(0, 255, 256, dtype=np.float32)
    assert rounding_noise(values) < 1e-6  # whole steps
    assert rounding_noise(values + 0.5) > 1e-3
    assert rounding_noise(np.zeros(3, np.float32)) == 0


@pytest.mark.parametrize("needed", [0, 1, 5, 47, 48])
def test_the_fewest_are_found(needed):
    tried = []

    def attempt(count):
        tried.append(count)
        return f"graph {count}" if count >= needed else None

    found = int8_ladder.fewest(48, attempt)
    step = 48 // int8_ladder.STEPS
    assert found == f"graph {-(-needed // step) * step}"
    assert len(tried) <= 6
    assert int8_ladder.fewest(48, lambda _: None) is None


def test_two_passes_go_where_the_labels_need_them(graphs, pixels, tmp_path, monkeypatch):
    expected = encode(graphs["fp32"], pixels, tmp_path)
    bank = np.random.default_rng(0).normal(size=(30, 24)).astype(np.float32)
    said = []
    monkeypatch.setitem(THRESHOLDS, "vision.int8", replace(THRESHOLDS["vision.int8"], cosine_mean=0.9999))
    arguments = {"expected": expected, "bank": bank, "report": said.append}
    graph = int8_ladder.fit(graphs["fp32"], pixels.numpy(), **arguments)
    cosine = (encode(graph, pixels, tmp_path) * expected).sum(1).mean()
    assert cosine >= 0.9999
    integers = [node.op_type for node in graph.graph.node].count("MatMulInteger")
    assert 24 < integers <= 48
    assert said[0].startswith("int8 with 0 of 24 products in two passes: ")


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


def test_the_command_adds_the_other_precisions(weights, tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    # 3 photos have 48 positions and the weights are random: one label that changes is already 2.1 %.
    monkeypatch.setitem(THRESHOLDS, "vision.int8", replace(THRESHOLDS["vision.int8"], label_agreement=0.9))
    arguments = [
        "--model",
        "tiny",
        "--kernels",
        "none",
        "--bf16",
        "--int8",
        "--out",
        tmp_path,
        "--photos",
        weights / "photos",
    ]
    arguments += [
        "--checkpoint",
        weights / "tiny.safetensors",
        "--text-checkpoint",
        weights / "text.safetensors",
    ]
    (tmp_path / "data" / "labels").mkdir(parents=True)
    shutil.copytree(weights / "photos", tmp_path / "data" / "images")
    Image.fromarray(np.zeros((90, 70), np.uint8)).save(tmp_path / "data" / "labels" / "0.png")
    (tmp_path / "data" / "names.txt").write_text("cat")  # of one class nothing is mistaken
    arguments += ["--int8-data", tmp_path / "data"]
    result = CliRunner().invoke(export, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    assert "mIoU at int8: 100.00 (data 100.00)" in result.output
    bundle = load_bundle(tmp_path / "tiny.ovs")
    assert list(bundle.manifest.graphs) == ["vision", "vision.bf16", "vision.int8", "text"]
    assert bundle.manifest.parity["vision.int8"].label_agreement >= 0.9
    assert bundle.manifest.graphs["vision.bf16"].fp32 == ()
    engine = open_vision(bundle, threads=1, precision="int8")
    assert "ONNX Runtime" in engine.description
    with pytest.raises(EngineError, match="ONNX Runtime has no BF16 products on a CPU"):
        open_vision(bundle, threads=1, precision="bf16")
    pytest.importorskip("tensorrt_rtx")
    (record,) = build_engines(bundle, choose_target("tensorrt-rtx", "sm_89"))
    assert record.layers["MATRIX_MULTIPLY BF16"] > 0
    assert "NORMALIZATION BF16" not in record.layers


def test_two_labels_in_a_hundred_may_change():
    assert THRESHOLDS["vision.int8"].label_agreement == 0.98


def test_labels_that_change_refuse_int8(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "vision.int8", replace(THRESHOLDS["vision.int8"], label_agreement=1.01))
    request = ExportRequest(
        model="tiny",
        checkpoint=weights / "tiny.safetensors",
        text_checkpoint=weights / "text.safetensors",
        out=tmp_path,
        int8=True,
    )
    with pytest.raises(ParityError, match=r"vision\.int8\.onnx differs .*label_agreement .*without --int8"):
        export_bundle(replace(request, photos=weights / "photos"))
    assert not list(tmp_path.iterdir())
