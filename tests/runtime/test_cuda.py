"""What stands between the device pipeline and a GPU: refusals here, the real thing where there is one."""

import sys
from concurrent.futures import Future
from dataclasses import replace
from types import ModuleType

import numpy as np
import pytest

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import load_bundle, write_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.cuda import driver as cuda
from ovsdino_runtime.cuda import graph as cuda_graph
from ovsdino_runtime.cuda.devices import find_gpus
from ovsdino_runtime.device.open import open_device_pipeline, vision_graph
from ovsdino_runtime.engines import onnxruntime_cuda as ort_cuda
from ovsdino_runtime.engines.stream_engine import Place
from ovsdino_runtime.pipelines.pipeline import open_host_pipeline
from ovsdino_runtime.segmenter import Segmenter


def test_without_pycuda_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    wanted = r"^device 'cuda' needs pycuda, .*: pip install '\.\[cuda\]'; .* C\+\+ compiler and CUDA's"
    with pytest.raises(EngineError, match=wanted):
        cuda.open_cuda()
    for engine in ("onnxruntime", "tensorrt", "tensorrt-rtx"):
        with pytest.raises(EngineError, match=wanted):
            Segmenter.load("nano", device="cuda", engine=engine)


def test_precisions_that_do_not_run_on_a_gpu_are_refused(bundle):
    with pytest.raises(EngineError, match="tensorrt on a GPU does not run int8; use fp16 or fp32"):
        vision_graph(bundle, RuntimeOptions(device="cuda", engine="tensorrt", precision="int8"))
    with pytest.raises(EngineError, match="onnxruntime on a GPU does not run bf16"):
        vision_graph(bundle, RuntimeOptions(device="cuda", engine="onnxruntime", precision="bf16"))
    with pytest.raises(BundleError, match="has no fp16 vision graph, only vision, text"):
        vision_graph(bundle, RuntimeOptions(device="cuda", engine="tensorrt", precision="fp16"))
    assert vision_graph(bundle, RuntimeOptions(device="cuda", engine="tensorrt")) == "vision"


class OneStream:
    handle = 7

    def synchronize(self):
        """Nothing is in flight."""


def test_onnx_runtime_reads_and_writes_at_addresses(bundle):
    engine = ort_cuda.OrtStreamEngine(bundle.file("vision.onnx"), OneStream(), ort_cuda.CPU)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    features = np.full((2, 6, 8, 8), np.nan, np.float32)
    inputs = {"pixels": Place(pixels.ctypes.data, pixels.shape)}
    outputs = {"features": Place(features.ctypes.data, features.shape)}
    engine.enqueue(0, inputs, outputs, OneStream())
    np.testing.assert_array_equal(features, engine.run({"pixels": pixels})["features"])
    other = type("Other", (OneStream,), {"handle": 8})()
    with pytest.raises(EngineError, match="has one context, on the stream that it was opened with"):
        engine.enqueue(0, inputs, outputs, other)


def test_a_provider_that_is_not_there_or_not_the_one_that_runs_is_an_error(bundle):
    import onnxruntime

    if ort_cuda.CUDA not in onnxruntime.get_available_providers():
        with pytest.raises(
            EngineError, match=r"is built without CUDAExecutionProvider; pip uninstall onnxruntime"
        ):
            ort_cuda.OrtStreamEngine(bundle.file("vision.onnx"), OneStream())
    with pytest.raises(
        EngineError, match="runs the graph on CPUExecutionProvider, asked for is CUDAExecution"
    ):
        ort_cuda.check_provider([ort_cuda.CPU], ort_cuda.CUDA, "1.20")
    ort_cuda.check_provider([ort_cuda.CUDA, ort_cuda.CPU], ort_cuda.CUDA, "1.20")


def test_cudas_libraries_are_loaded_once_and_in_silence(monkeypatch, capsys):
    asked = []
    library = ModuleType("onnxruntime")
    library.preload_dlls = lambda: asked.append(1) or sys.stdout.write("Failed to load libcublas.so.13")
    monkeypatch.setitem(sys.modules, "onnxruntime", library)
    ort_cuda.load_cuda.cache_clear()
    ort_cuda.load_cuda()
    ort_cuda.load_cuda()
    ort_cuda.load_cuda.cache_clear()
    assert (asked, capsys.readouterr().out) == ([1], "")


class Driver:
    """The driver's library, as far as a capture calls it."""

    def __init__(self, fails=""):
        self.fails, self.called = fails, []

    def __getattr__(self, name):
        def call(*_):
            self.called.append(name)
            return 900 if name == self.fails else 0

        return call


def test_a_capture_is_ended_whatever_happens(monkeypatch):
    library = Driver()
    monkeypatch.setattr(cuda_graph, "load_driver", lambda: library)
    graph = cuda_graph.capture(1, lambda: library.called.append("work"))
    graph.launch(OneStream())
    graph.free()
    begin, end = (
        ["cuStreamBeginCapture_v2", "work", "cuStreamEndCapture"],
        ["cuGraphLaunch", "cuGraphExecDestroy"],
    )
    assert library.called == [*begin, "cuGraphInstantiateWithFlags", "cuGraphDestroy", *end]

    def fail():
        raise EngineError("the engine did not run")

    library.called.clear()
    with pytest.raises(EngineError, match="the engine did not run"):
        cuda_graph.capture(1, fail)
    assert library.called == ["cuStreamBeginCapture_v2", "cuStreamEndCapture"]
    library.fails = "cuGraphInstantiateWithFlags"
    with pytest.raises(EngineError, match="cuGraphInstantiateWithFlags failed with error 900"):
        cuda_graph.capture(1, lambda: None)
    assert library.called[-1] == "cuGraphDestroy"
    monkeypatch.setattr(cuda_graph, "load_driver", lambda: None)
    with pytest.raises(EngineError, match="driver library cannot be loaded"):
        cuda_graph.capture(1, lambda: None)


@pytest.fixture
def gpu_bundle(tmp_path):
    """The packaged model with kernels for the GPU that is here."""
    import shutil

    from ovsdino_export.engines.kernels import compile_kernels, plan_device_kernels

    nano = load_bundle(find_bundle("nano"))
    folder = tmp_path / "staging"
    shutil.copytree(nano.path, folder, ignore=shutil.ignore_patterns("bundle.json"))
    kernels = compile_kernels(plan_device_kernels(), [find_gpus()[0].capability], folder, lambda _: None)
    return write_bundle(tmp_path / "nano.ovs", replace(nano.manifest, kernels=kernels, files={}), folder)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_labels_on_a_gpu_are_those_of_the_processor(gpu_bundle, engine):
    """TensorRT's engines are built first: `ovsdino-export --bundle ... --engine tensorrt --gpu current`."""
    if engine != "onnxruntime":
        from ovsdino_export.engines.build import build_engine, choose_target

        pytest.importorskip(engine.replace("-", "_"))
        build_engine(gpu_bundle, "vision", choose_target(engine, "current"))
    pipeline = open_device_pipeline(gpu_bundle, RuntimeOptions(device="cuda", engine=engine))
    host = open_host_pipeline(gpu_bundle, RuntimeOptions())
    embeddings = np.random.default_rng(0).normal(size=(300, 384)).astype(np.float32)
    text: Future = Future()
    text.set_result(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    at_load = pipeline.memory.allocations
    for size in [(480, 640), (480, 640), (480, 640), (1, 1), (300, 2000)]:  # the third time as a CUDA graph
        photo = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
        actual = pipeline.label(photo, text, threshold=0.4, scores=True)
        expected = host.label(photo, text, threshold=0.4, scores=True)
        assert (actual.labels == expected.labels).mean() >= 0.995
    assert pipeline.memory.allocations <= at_load + 2  # room for 300 classes, on both sides
    pipeline.close()
