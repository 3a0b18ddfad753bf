"""Engines built for real, by TensorRT for RTX, on a machine without a GPU."""

import errno
import re
import shutil
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from ovsdino_export.cli import export
from ovsdino_export.engines import build as engine_build
from ovsdino_export.engines import plugin
from ovsdino_export.engines import progress as engine_progress
from ovsdino_export.engines.build import EngineTarget, build_engine, choose_target
from ovsdino_export.engines.inspect import Layer, check_layers, check_tensors, engine_layers
from ovsdino_export.engines.progress import BuildProgress
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.kernels import FUSED
from ovsdino_runtime.cuda.devices import Gpu
from ovsdino_runtime.engines import cache as engine_cache
from ovsdino_runtime.engines import tensorrt as engine_run
from ovsdino_runtime.engines import tensorrt_library
from ovsdino_runtime.engines.cache import list_engines
from ovsdino_runtime.engines.tensorrt import open_cached_engine

RTX = pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no package for this machine")


@pytest.fixture(scope="module")
def made(weights, tmp_path_factory):
    """A bundle and its FP16 engine, by one command; and what the command said."""
    folder = tmp_path_factory.mktemp("engines")
    arguments = f"--model tiny --fp16 --kernels none --engine tensorrt-rtx --gpu sm_89 --out {folder}"
    arguments += (
        f" --checkpoint {weights / 'tiny.safetensors'} --text-checkpoint {weights / 'text.safetensors'}"
    )
    arguments += f" --photos {weights / 'photos'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSDINO_CACHE", str(folder / "cache"))
        result = CliRunner().invoke(export, arguments.split())
    assert result.exit_code == 0, result.output
    return folder / "tiny.ovs", folder / "cache", result.output


@pytest.fixture
def cache(made, tmp_path, monkeypatch):
    """The cache that the command filled, to be spoilt."""
    monkeypatch.setenv("OVSDINO_CACHE", str(shutil.copytree(made[1], tmp_path / "cache")))
    return tmp_path / "cache"


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def invoke(*arguments):
    return CliRunner().invoke(export, [str(argument) for argument in arguments])


def refusal(*arguments):
    """What a command that is refused says: one line."""
    result = invoke(*arguments)
    assert result.exit_code == 2, result.output
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    return result.stderr


def test_the_command_makes_a_bundle_and_an_engine(made, cache):
    bundle, _, output = made
    (record,), broken = list_engines()
    assert not broken
    assert (record.model, record.graph) == ("tiny", "vision.fp16")
    assert record.key.onnx == load_bundle(bundle).graph_digest("vision.fp16")
    assert record.key.capabilities == ("sm_89",)
    assert (record.key.gpu, record.key.driver) == ("", "")  # built ahead, for any GPU of the kind
    assert (record.key.version, record.key.batches) == (RTX.__version__, (1, 4, 4))
    assert record.size == len(engine_cache.read_engine(record)) > 10_000
    assert record.golden_cosine is None
    assert "the engine is tried on the golden photo before its first use" in output
    assert "building vision.fp16 for sm_89 with tensorrt-rtx" in output


def test_the_types_of_the_graph_are_those_of_the_network(cache):
    layers = list_engines()[0][0].layers
    products = {name for name in layers if name.startswith(("MATRIX_MULTIPLY", "CONVOLUTION"))}
    assert products == {"MATRIX_MULTIPLY HALF", "CONVOLUTION HALF"}
    assert layers["NORMALIZATION FLOAT"] > 0
    assert layers["ATTENTION_INPUT HALF"] == 6  # one for each block; its softmax is no layer of its own
    assert "SOFTMAX FLOAT" not in layers
    assert "NORMALIZATION HALF" not in layers
    assert "SOFTMAX HALF" not in layers


def test_an_engine_that_is_there_is_not_built_again(made, cache, monkeypatch):
    monkeypatch.setattr(engine_build, "_build", pytest.fail)
    result = invoke("--bundle", made[0], "--engine", "tensorrt-rtx", "--gpu", "sm_89")
    assert result.exit_code == 0, result.output
    assert "is in the cache" in result.output
    assert "tiny vision.fp16  sm_89  tensorrt-rtx" in invoke("--list-engines").output


def test_engines_are_listed_and_cleared(cache):
    assert "1 engines in" in invoke("--list-engines").output
    assert "1 engines deleted" in invoke("--clear-engines").output
    assert list_engines() == ([], [])
    assert "0 engines in" in invoke("--list-engines").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--engine tensorrt-rtx --gpu sm_87", "--gpu sm_87: tensorrt-rtx .* builds here for sm_75, sm_80"),
        ("--engine tensorrt-rtx --gpu 4090", "--gpu '4090': expected `current`, or compute capabilities"),
        ("--engine tensorrt-rtx", "--gpu current: this machine has no NVIDIA GPU that answers"),
        ("--gpu sm_89", "--gpu sm_89 is for an engine: add --engine"),
        ("--bundle {bundle}", "--bundle builds an engine: say which"),
        ("--engine tensorrt-rtx --gpu sm_89 --bundle {bundle}x", "tiny.ovsx.bundle.json: no such file"),
    ],
)
def test_bad_input_is_refused_before_any_work(made, empty_cache, monkeypatch, tmp_path, arguments, message):
    monkeypatch.setattr(engine_build, "find_gpus", lambda: ())
    arguments = [*arguments.format(bundle=made[0]).split(), "--out", tmp_path / "out"]
    assert re.search(message, refusal(*arguments))
    assert not list(tmp_path.iterdir())


def test_an_engine_without_its_package_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt", "no_such_tensorrt")
    said = refusal("--engine", "tensorrt", "--out", tmp_path)
    assert "pip install '.[tensorrt]'" in said
    monkeypatch.setitem(tensorrt_library.MODULES, "tensorrt-rtx", "no_such_tensorrt")
    assert "pip install '.[rtx]'" in refusal("--engine", "tensorrt-rtx", "--gpu", "sm_89")
    assert not list(tmp_path.iterdir())


def test_a_graph_edited_by_hand_is_refused(made, empty_cache, tmp_path):
    bundle = shutil.copytree(made[0], tmp_path / "tiny.ovs")
    graph = onnx.load(bundle / "vision.fp16.onnx", load_external_data=False)
    graph.graph.node[0].name = "edited"
    (bundle / "vision.fp16.onnx").write_bytes(graph.SerializeToString())
    said = refusal("--bundle", bundle, "--engine", "tensorrt-rtx", "--gpu", "sm_89")
    assert "vision.fp16.onnx: changed or damaged: sha256" in said
    assert not empty_cache.exists()


def leftovers(cache):
    return [path for path in (cache / "engines").iterdir() if path.suffix != ".lock"]


def fake_build(bundle, graph, target, report):
    return b"engine", [Layer("a", "MATRIX_MULTIPLY", "HALF")], 0.1


def test_a_disk_that_fills_up_leaves_nothing(made, empty_cache, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine_build, "_build", fake_build)
    monkeypatch.setattr(engine_cache.os, "fsync", full)
    said = refusal("--bundle", made[0], "--engine", "tensorrt-rtx", "--gpu", "sm_89")
    assert "cannot keep an engine of 0 MiB: No space left on device; make room, or set OVSDINO_CACHE" in said
    assert not leftovers(empty_cache)


def test_an_interrupt_leaves_nothing_and_stops_the_builder(made, empty_cache, monkeypatch):
    def describe(self, elapsed, expected):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_progress, "EVERY", 0.01)
    monkeypatch.setattr(BuildProgress, "describe", describe)
    result = invoke("--bundle", made[0], "--engine", "tensorrt-rtx", "--gpu", "sm_89")
    assert result.exit_code == 1
    assert "stopping the builder" in result.output
    assert "Aborted!" in result.stderr
    assert not leftovers(empty_cache)


def test_the_engine_must_reproduce_the_golden_pair_where_it_can_run(made, empty_cache, monkeypatch):
    class Wrong:
        description = "a broken engine"

        def __init__(self, data, flavour, device):  # noqa: ARG002 - as the engine
            self.tensors = {"pixels": ("FLOAT", (-1, 3, 64, 64)), "features": ("FLOAT", (-1, 24, 4, 4))}

        def inspect(self):
            return (
                '{"Layers": [{"Name": "a", "LayerType": "gemm", "Outputs": [{"Format/Datatype": "Half"}]}]}'
            )

        def run(self, inputs):
            return {"features": np.ones((len(inputs["pixels"]), 24, 4, 4), np.float32)}

    monkeypatch.setattr(engine_build, "_build", fake_build)
    monkeypatch.setattr(engine_build, "GpuEngine", Wrong)
    monkeypatch.setattr(engine_build, "open_cuda", lambda index: index)
    monkeypatch.setattr(engine_build, "find_gpus", lambda: (Gpu("RTX 4090", "sm_89", "580.1"),))
    said = refusal("--bundle", made[0], "--engine", "tensorrt-rtx")
    assert "a broken engine does not reproduce" in said
    assert not leftovers(empty_cache)


def test_the_runtime_refuses_an_engine_of_another_gpu(made, cache, monkeypatch):
    bundle = load_bundle(made[0])
    monkeypatch.setattr(engine_run, "find_gpus", lambda: (Gpu("RTX 3090", "sm_86", "580.1"),))
    with pytest.raises(
        EngineError, match=r"built for sm_89, the GPU here is sm_86; build it: ovsdino-export"
    ):
        open_cached_engine(bundle, "vision.fp16", flavour="tensorrt-rtx")
    monkeypatch.setattr(engine_run, "find_gpus", lambda: ())
    with pytest.raises(EngineError, match="no NVIDIA GPU that answers"):
        open_cached_engine(bundle, "vision.fp16", flavour="tensorrt-rtx")


def test_a_precision_that_is_not_there_is_refused():
    layers = [Layer("block 1", "MATRIX_MULTIPLY", "FLOAT"), Layer("norm", "NORMALIZATION", "FLOAT")]
    check_layers(layers, "fp32", "x")
    with pytest.raises(EngineError, match=r"x: fp16 was asked for and too few .*\(types found: 1 FLOAT\)"):
        check_layers(layers, "fp16", "x")
    half = [Layer("block 1", "MATRIX_MULTIPLY", "HALF"), Layer("norm", "SOFTMAX", "HALF")]
    with pytest.raises(EngineError, match="SOFTMAX norm computes in HALF, expected FLOAT"):
        check_layers(half, "fp16", "x")


def test_every_product_is_counted():
    kinds = ["MATRIX_MULTIPLY", "CONVOLUTION"] * 2
    half = [Layer(f"block {i}", kind, "HALF") for i, kind in enumerate(kinds)]
    kept = [Layer(f"kept {i}", "MATRIX_MULTIPLY", "FLOAT") for i in range(5)]
    check_layers(half + kept[:4], "fp16", "x")  # half of them: the others were kept in FP32 by the export
    with pytest.raises(EngineError, match=r"too few products compute in it \(types found: 5 FLOAT, 4 HALF\)"):
        check_layers(half + kept, "fp16", "x")
    with pytest.raises(EngineError, match=r"1 products compute in BF16 \(types found: 1 BF16, 4 HALF\)"):
        check_layers([*half, Layer("other", "CONVOLUTION", "BF16")], "fp16", "x")
    with pytest.raises(EngineError, match="4 products compute in HALF"):
        check_layers(half + kept[:4], "fp32", "x")


def test_bfloat16_is_known_and_a_cast_behind_a_softmax_is_no_fault():
    text = """{"Layers": [{"Name": "m", "LayerType": "gemm", "Outputs": [{"Format/Datatype": "BFloat16"}]},
        {"Name": "s", "LayerType": "SoftMax", "Inputs": [{"Format/Datatype": "Float"}],
         "Outputs": [{"Format/Datatype": "BFloat16"}]}]}"""
    layers = engine_layers(text)
    assert [layer.dtype for layer in layers] == ["BF16", "FLOAT"]
    check_layers(layers, "bf16", "x")
    low = text.replace('"Format/Datatype": "Float"', '"Format/Datatype": "BFloat16"')
    with pytest.raises(EngineError, match="SOFTMAX s computes in BF16, expected FLOAT"):
        check_layers(engine_layers(low), "bf16", "x")


def test_sm_75_without_fp32_products_is_left_out_or_refused_by_name():
    target = choose_target("tensorrt-rtx", "sm_75,sm_89")
    said = []
    left = engine_build.without_refused_gpus(target, "fp32", graph="vision", report=said.append)
    assert left.capabilities == ("sm_89",)
    assert said == [
        "vision: tensorrt-rtx has no fp32 products for sm_75: left out, the engine is built for sm_89"
    ]
    assert (
        engine_build.without_refused_gpus(target, "fp16", graph="vision.fp16", report=said.append) == target
    )
    alone = choose_target("tensorrt-rtx", "sm_75")
    with pytest.raises(EngineError, match="tensorrt-rtx has no fp32 products for sm_75; build its fp16"):
        engine_build.without_refused_gpus(alone, "fp32", graph="vision", report=said.append)


def test_what_tensorrt_says_of_sm_75_is_in_the_message(made, empty_cache, monkeypatch):
    """The table above is true of this TensorRT for RTX: without it the builder refuses, with its reason."""
    monkeypatch.setattr(engine_build, "NO_PRODUCTS", {})
    said = refusal("--bundle", made[0], "--engine", "tensorrt-rtx", "--gpu", "sm_75", "--graph", "vision")
    assert "built no engine for sm_75: " in said
    assert "gave no reason" not in said
    assert not leftovers(empty_cache)


def test_a_graph_and_a_workspace_can_be_named(made, empty_cache):
    given = ("--bundle", made[0], "--engine", "tensorrt-rtx", "--gpu", "sm_89")
    said = refusal(*given, "--graph", "vision.bf16")
    assert "--graph vision.bf16: expected one of vision, vision.fp16" in said
    assert "--graph and --workspace are for an engine" in refusal("--graph", "vision")
    result = invoke(*given[:-1], "sm_75,sm_89", "--graph", "vision", "--workspace", 512)
    assert result.exit_code == 0, result.output
    assert "no fp32 products for sm_75: left out, the engine is built for sm_89" in result.output
    (record,), _ = list_engines()
    assert (record.graph, record.key.capabilities) == ("vision", ("sm_89",))
    assert {name for name in record.layers if "MATRIX" in name} == {"MATRIX_MULTIPLY FLOAT"}


def test_the_configuration_has_no_tf32_one_profile_and_the_workspace():
    builder = RTX.Builder(RTX.Logger(RTX.Logger.ERROR))
    network = builder.create_network(1 << int(RTX.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    network.add_input("pixels", RTX.float32, (-1, 3, 8, 8))
    target = choose_target("tensorrt-rtx", "sm_86,sm_89", workspace=512)
    config = engine_build.configure(RTX, builder, network=network, target=target, sizes=(1, 4, 4))
    assert builder.create_builder_config().get_flag(RTX.BuilderFlag.TF32)  # TensorRT's default
    assert not config.get_flag(RTX.BuilderFlag.TF32)
    assert config.get_memory_pool_limit(RTX.MemoryPoolType.WORKSPACE) == 512 << 20
    assert config.num_optimization_profiles == 1
    assert config.num_compute_capabilities == 2


def test_fused_kernels_in_the_network_are_counted(made):
    bundle = load_bundle(made[0])
    kernel = SimpleNamespace(operator=FUSED[0], target="sm_89", file="vision.onnx")
    bundle = replace(bundle, manifest=replace(bundle.manifest, kernels=(kernel,)))
    target = EngineTarget(
        flavour="tensorrt",
        version="10.10.0.31",
        capabilities=("sm_89",),
        gpu=Gpu("L4", "sm_89", "580.1"),
        ahead=False,
    )
    layers = [Layer("gate", "PLUGIN_V3", "HALF"), Layer("product", "MATRIX_MULTIPLY", "HALF")]
    said = []
    engine_build.report_plugins(layers * 2, bundle, target=target, report=said.append)
    engine_build.report_plugins(layers[1:], bundle, target=target, report=said.append)
    engine_build.report_plugins(
        layers, bundle, target=replace(target, flavour="tensorrt-rtx"), report=said.append
    )
    assert said == [
        "2 fused kernels in the network",
        "0 fused kernels in the network; the functions' bodies run instead, which is slower",
    ]


def test_the_inspectors_layers_are_read():
    text = """{"Layers": ["name alone", {"Name": "myl", "LayerType": "kgen",
        "Outputs": [{"Name": "o", "Format/Datatype": "Row major linear FP16 format"}]}], "Bindings": []}"""
    assert engine_layers(text) == [Layer("myl", "KGEN", "HALF")]
    assert (
        engine_layers('{"Layers": [{"Name": "c", "Outputs": [{"Format/Datatype": "Float"}]}]}')[0].dtype
        == "FLOAT"
    )


def test_tensors_are_compared_with_the_manifest(made):
    graph = load_bundle(made[0]).manifest.graphs["vision"]
    right = {"pixels": ("FLOAT", (-1, 3, 64, 64)), "features": ("FLOAT", (-1, 24, 4, 4))}
    check_tensors(right, graph, "x")
    with pytest.raises(EngineError, match=r"x: tensor features is \('HALF'.*the manifest says \('FLOAT'"):
        check_tensors(right | {"features": ("HALF", (-1, 24, 4, 4))}, graph, "x")
    with pytest.raises(EngineError, match=r"tensor mask is .* there is none"):
        check_tensors(right | {"mask": ("FLOAT", (1,))}, graph, "x")


def test_the_full_tensorrt_builds_only_for_the_gpu_of_this_machine(monkeypatch):
    class Module:
        __version__ = "10.9.0.34"

    monkeypatch.setattr(engine_build, "import_flavour", lambda _: Module)
    monkeypatch.setattr(engine_build, "find_gpus", lambda: (Gpu("L4", "sm_89", "580.1"),))
    target = choose_target("tensorrt", "current")
    assert target == EngineTarget(
        flavour="tensorrt",
        version="10.9.0.34",
        capabilities=("sm_89",),
        gpu=Gpu("L4", "sm_89", "580.1"),
        ahead=False,
    )
    with pytest.raises(EngineError, match=r"--gpu sm_86: .* only on a machine with that GPU"):
        choose_target("tensorrt", "sm_86")


def test_a_key_holds_gpu_and_driver_where_the_engine_depends_on_them(made):
    bundle, gpu = load_bundle(made[0]), Gpu("L4", "sm_89", "580.1")
    target = EngineTarget(
        flavour="tensorrt", version="10.9.0.34", capabilities=("sm_89",), gpu=gpu, ahead=False
    )
    key = target.key(bundle, "vision")
    assert (key.gpu, key.driver) == ("L4", "580.1")
    assert key.digest != replace(target, gpu=replace(gpu, driver="581.0")).key(bundle, "vision").digest


def test_progress_is_told_with_the_time_that_the_last_build_took(made, cache):
    progress = BuildProgress([("Building engine", 0, 6), ("Timing", 2, 40)])
    assert progress.describe(12.3, 20.0) == "  Timing 2/40: 12 s of about 20 s"
    assert "no estimate yet" in BuildProgress().describe(1.0, None)
    target = choose_target("tensorrt-rtx", "sm_86,sm_89")
    seconds = list_engines()[0][0].seconds
    assert engine_build.expected_seconds(target, "tiny", "vision.fp16") == 2 * seconds
    assert engine_build.expected_seconds(target, "other", "vision") is None


def test_int8_is_not_for_tensorrt(made):
    bundle = load_bundle(made[0])
    graphs = bundle.manifest.graphs | {
        "vision.int8": replace(bundle.manifest.graphs["vision"], precision="int8")
    }
    bundle = replace(bundle, manifest=replace(bundle.manifest, graphs=graphs))
    with pytest.raises(EngineError, match=r"vision\.int8 is for ONNX Runtime on a CPU"):
        build_engine(bundle, "vision.int8", target=choose_target("tensorrt-rtx", "sm_89"))


@pytest.mark.slow
def test_a_vit_b_of_two_blocks_is_built_for_two_gpus(weights, tmp_path, monkeypatch, tiny_preset):
    import torch

    from ovsdino.network import checkpoint
    from ovsdino.network.config import PRESETS
    from ovsdino.network.model import OVSDINO
    from ovsdino_export.export import ExportRequest, export_bundle

    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    vitb = PRESETS["ovsdino-vitb14"]
    config = replace(
        vitb,
        name="short",
        image_size=224,
        backbone_depth=2,
        trained_blocks=1,
        taps=(1, 2),
        text_width=24,
        text_encoder=tiny_preset.text_encoder,
    )
    monkeypatch.setitem(PRESETS, "short", config)
    torch.manual_seed(0)
    checkpoint.save_model(OVSDINO(config), tmp_path / "short.safetensors", dtype=torch.float16)
    request = ExportRequest(
        model="short",
        checkpoint=tmp_path / "short.safetensors",
        text_checkpoint=weights / "text.safetensors",
        fp16=True,
        out=tmp_path,
    )
    bundle = export_bundle(replace(request, photos=weights / "photos"))
    (record,) = engine_build.build_engines(bundle, choose_target("tensorrt-rtx", "sm_86,sm_89"))
    assert Counter(record.layers)["MATRIX_MULTIPLY HALF"] >= 12
    assert record.key.capabilities == ("sm_86", "sm_89")


@pytest.mark.gpu
def test_an_engine_built_here_reproduces_the_golden_pair(made, empty_cache):
    bundle = load_bundle(made[0])
    record = build_engine(bundle, "vision.fp16", target=choose_target("tensorrt-rtx", "current"))
    assert record.golden_cosine > 0.9995
    assert open_cached_engine(bundle, "vision.fp16", flavour="tensorrt-rtx").description.startswith(
        "tensorrt-rtx"
    )


@pytest.mark.gpu
def test_an_engine_of_the_full_tensorrt_reproduces_the_golden_pair(made, empty_cache):
    pytest.importorskip("tensorrt")
    bundle = load_bundle(made[0])
    record = build_engine(bundle, "vision.fp16", target=choose_target("tensorrt", "current"))
    assert record.golden_cosine > 0.9995
    assert list(empty_cache.glob("engines/*.timings"))
    assert open_cached_engine(bundle, "vision.fp16", flavour="tensorrt").description.startswith("tensorrt")


def test_kernels_are_plugins_where_tensorrt_takes_them(made, monkeypatch):
    class Flags:
        STRONGLY_TYPED, PREFER_AOT_PYTHON_PLUGINS = 1, 3

    class OldFlags:
        STRONGLY_TYPED = 1

    bundle = load_bundle(made[0])
    kernel = SimpleNamespace(operator=FUSED[0], target="sm_89", file="vision.onnx")
    bundle = replace(bundle, manifest=replace(bundle.manifest, kernels=(kernel,)))
    registered = []
    monkeypatch.setattr(plugin, "register_plugins", lambda *given: registered.append(given))
    target = EngineTarget(
        flavour="tensorrt",
        version="10.10.0.31",
        capabilities=("sm_89",),
        gpu=Gpu("L4", "sm_89", "580.1"),
        ahead=False,
    )
    flags = engine_build.network_flags
    old = SimpleNamespace(NetworkDefinitionCreationFlag=OldFlags)
    assert flags(old, bundle, replace(target, version="10.9.0.34")) == 2
    new = SimpleNamespace(NetworkDefinitionCreationFlag=Flags)
    assert flags(new, bundle, replace(target, capabilities=("sm_80",))) == 2
    assert flags(new, bundle, replace(target, flavour="tensorrt-rtx")) == 2
    assert not registered
    assert flags(new, bundle, target) == 10
    assert registered == [(bundle, "sm_89")]
    assert target.key(bundle, "vision").onnx != bundle.graph_digest("vision")
    assert replace(target, flavour="tensorrt-rtx").key(bundle, "vision").onnx == bundle.graph_digest("vision")
