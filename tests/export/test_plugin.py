"""The TensorRT plugins: all that a stand-in for its library can show, and the whole on a machine with it."""

import inspect
from dataclasses import replace
from types import SimpleNamespace
from typing import Union, get_args

import pytest
import torch

from ovsdino.network.config import NANO
from ovsdino_export.engines import plugin
from ovsdino_export.engines.kernels import compile_kernels, plan_kernels
from ovsdino_export.engines.ptx import describe_ptx
from ovsdino_runtime.base.errors import EngineError

TINY = replace(NANO, image_size=64, backbone_width=64, encoder_width=32, structure_channels=32, norm_groups=8)


class StandInPlugins:
    """What `tensorrt.plugin` offers to those who register: as far as its documentation describes it."""

    class TensorDesc:
        def __init__(self, dtype, shape):
            self.dtype, self.shape_expr = dtype, list(shape)

        def like(self):
            return type(self)(self.dtype, self.shape_expr)

    class KernelLaunchParams(SimpleNamespace):
        pass

    class SymExprs:
        pass

    class SymIntExprs(SymExprs):
        def __init__(self, count):
            self.count = count

    def __init__(self):
        self.described, self.launched = {}, {}

    def register(self, name):
        return lambda function: self.described.setdefault(name, function)

    def aot_impl(self, name):
        return lambda function: self.launched.setdefault(name, function)

    @staticmethod
    def cdiv(size, step):
        return -(-size // step)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """As much of a bundle as the plugins read, for one GPU and both precisions."""
    pytest.importorskip("triton")
    folder = tmp_path_factory.mktemp("kernels")
    kernels = compile_kernels(
        plan_kernels(TINY, ["fp16", "fp32"]), ["sm_89"], staging=folder, report=lambda _: None
    )
    manifest = SimpleNamespace(kernels=kernels)
    return SimpleNamespace(path=folder, manifest=manifest, file=lambda name: folder / name)


@pytest.fixture
def plugins(bundle, monkeypatch):
    plugins = StandInPlugins()
    monkeypatch.setattr(plugin, "REGISTERED", set())
    monkeypatch.setattr(plugin, "find_tensorrt", lambda: plugins)
    plugin.register_plugins(bundle, "sm_89")
    return plugins


def test_each_function_of_the_graph_has_its_plugin(plugins):
    names = {"ovsdino::DepthwiseBlock", "ovsdino::DepthwiseBlockStride2", "ovsdino::PreservationGate"}
    assert set(plugins.described) == set(plugins.launched) == names


def test_signatures_are_what_tensorrt_reads(plugins, bundle):
    """Real types on every argument, inputs first, then outputs and tactic; no text where a type belongs."""
    for name, launch in plugins.launched.items():
        kernel = next(k for k in bundle.manifest.kernels if k.operator == name.partition("::")[2])
        inputs = [argument.name for argument in kernel.arguments if argument.role == "input"]
        described = inspect.signature(plugins.described[name])
        launched = inspect.signature(launch)
        assert list(described.parameters) == inputs
        assert list(launched.parameters) == [*inputs, "outputs", "tactic"]
        kinds = [parameter.annotation for parameter in launched.parameters.values()]
        assert kinds[: len(inputs)] == [plugins.TensorDesc] * len(inputs)
        assert kinds[-1] is int
        assert get_args(kinds[-2]) == get_args(described.return_annotation) == (plugins.TensorDesc,)
        text = Union[str, bytes]  # noqa: UP007 - as TensorRT writes it
        expected = (text, text, plugins.KernelLaunchParams, plugins.SymExprs)
        assert get_args(launched.return_annotation) == expected


@pytest.mark.parametrize(
    ("name", "shape", "out", "grid", "threads"),
    [
        ("DepthwiseBlock", [3, 32, 4, 4], [3, 32, 4, 4], (8, 3, 1), 32),
        ("DepthwiseBlockStride2", [3, 32, 8, 8], [3, 32, 4, 4], (8, 3, 1), 32),
        ("PreservationGate", [3, 64, 4, 4], [3, 64, 4, 4], (2, 3, 1), 128),
    ],
)
def test_outputs_and_launches_follow_the_manifest(plugins, name, shape, out, grid, threads):
    for dtype, text in (("DataType.HALF", "float16"), ("DataType.FLOAT", "float32")):
        inputs = [plugins.TensorDesc(dtype, shape) for _ in range(4)]
        (description,) = plugins.described[f"ovsdino::{name}"](*inputs)
        assert description.shape_expr == out
        launch = plugins.launched[f"ovsdino::{name}"]
        entry, ptx, parameters, extra = launch(*inputs, (description,), 0)
        found = describe_ptx(ptx)
        assert found.entry == entry
        assert len(found.parameters) == len(inputs) + extra.count + 1
        assert (parameters.grid_x, parameters.grid_y, parameters.grid_z) == grid
        assert parameters.block_x == threads
        assert parameters.shared_mem >= 0
        assert ("f16" in ptx) == (text == "float16")


def test_a_type_or_gpu_without_kernels_is_refused(plugins, bundle):
    x = plugins.TensorDesc("DataType.BF16", [1, 64, 4, 4])
    with pytest.raises(EngineError, match="no kernel PreservationGate for bfloat16"):
        plugins.launched["ovsdino::PreservationGate"](x, x, x, x, (x,), 0)
    plugin.register_plugins(bundle, "sm_90")  # newer GPUs run the PTX
    with pytest.raises(EngineError, match=r"no kernel DepthwiseBlock for sm_86; .*--kernels sm_86"):
        plugin.register_plugins(bundle, "sm_86")


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("DepthwiseBlock", [3, 48, 4, 4], "DepthwiseBlock: compiled for channels 32, the network has 48"),
        ("DepthwiseBlock", [3, 32, 8, 4], "DepthwiseBlock: compiled for height 4, the network has 8"),
        ("PreservationGate", [3, 64, 5, 4], "PreservationGate: compiled for area 16, the network has 20"),
    ],
)
def test_a_network_of_other_sizes_is_refused(plugins, name, shape, message):
    inputs = [plugins.TensorDesc("DataType.HALF", shape) for _ in range(4)]
    with pytest.raises(EngineError, match=message):
        plugins.launched[f"ovsdino::{name}"](*inputs, (inputs[0],), 0)


def test_a_second_bundle_takes_the_place_of_the_first(plugins, bundle, tmp_path_factory):
    """TensorRT takes a plugin's name once in a process: the second bundle is not registered anew."""
    folder = tmp_path_factory.mktemp("wider")
    wide = replace(TINY, encoder_width=64)
    kernels = compile_kernels(plan_kernels(wide, ["fp16"]), ["sm_89"], staging=folder, report=lambda _: None)
    second = SimpleNamespace(
        path=folder, manifest=SimpleNamespace(kernels=kernels), file=lambda name: folder / name
    )
    registered = dict(plugins.launched)
    plugin.register_plugins(second, "sm_89")
    assert plugins.launched == registered
    launch = plugins.launched["ovsdino::DepthwiseBlock"]
    wider = [plugins.TensorDesc("DataType.HALF", [3, 64, 4, 4]) for _ in range(4)]
    ptx = launch(*wider, (wider[0],), 0)[1]
    assert ptx == (folder / kernels[0].file).read_text()
    plugin.register_plugins(bundle, "sm_89")
    with pytest.raises(EngineError, match="compiled for channels 32, the network has 64"):
        launch(*wider, (wider[0],), 0)


def test_the_file_keeps_its_annotations():
    assert "annotations" not in vars(plugin)


@pytest.mark.gpu
def test_tensorrt_runs_the_kernels(tiny, tmp_path, bundle):
    """The gate in TensorRT, by the plugin, against torch."""
    trt = pytest.importorskip("tensorrt")
    from ovsdino_export.engines.kernels import PTX_VERSIONS
    from ovsdino_export.graphs.graph import VISION, export_graph
    from ovsdino_export.graphs.local_functions import call_functions
    from ovsdino_export.pipeline import VisionPipeline

    gpu = "sm_{}{}".format(*torch.cuda.get_device_capability())
    if gpu not in PTX_VERSIONS:
        pytest.skip(f"no kernels for {gpu}")
    kernels = compile_kernels(
        plan_kernels(tiny.config, ["fp32"]), [gpu], staging=tmp_path, report=lambda _: None
    )
    plugin.register_plugins(
        SimpleNamespace(
            path=tmp_path, manifest=SimpleNamespace(kernels=kernels), file=lambda name: tmp_path / name
        ),
        gpu,
    )
    example = torch.zeros(2, 3, 64, 64)
    graph = export_graph(call_functions(VisionPipeline(tiny, "fp32")), example, VISION)
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    flags = [trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED]
    flags.append(trt.NetworkDefinitionCreationFlag.PREFER_AOT_PYTHON_PLUGINS)
    network = builder.create_network(sum(1 << int(flag) for flag in flags))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(graph.SerializeToString()), parser.get_error(0)
    kinds = [network.get_layer(i).type for i in range(network.num_layers)]
    assert kinds.count(trt.LayerType.PLUGIN_V3) == 4  # else the bodies were taken
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    profile.set_shape("pixels", (1, 3, 64, 64), (2, 3, 64, 64), (4, 3, 64, 64))
    config.add_optimization_profile(profile)
    engine = trt.Runtime(logger).deserialize_cuda_engine(builder.build_serialized_network(network, config))
    context = engine.create_execution_context()
    pixels = torch.randn(3, 3, 64, 64, device="cuda")
    features = torch.empty(3, 24, 4, 4, device="cuda")
    context.set_input_shape("pixels", tuple(pixels.shape))
    for name, tensor in (("pixels", pixels), ("features", features)):
        context.set_tensor_address(name, tensor.data_ptr())
    assert context.execute_async_v3(torch.cuda.current_stream().cuda_stream)
    torch.cuda.synchronize()
    expected = VisionPipeline(tiny, "fp32")(pixels.cpu())
    torch.testing.assert_close(features.cpu(), expected, rtol=0, atol=1e-3)
