"""What stands between the device pipeline and a GPU: refusals here, the real thing where there is one."""

import sys
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import find_spec
from types import ModuleType

import numpy as np
import pytest

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import load_bundle, write_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.cuda import driver as cuda
from ovsdino_runtime.cuda.devices import Gpu, find_gpus
from ovsdino_runtime.device import open as device_open
from ovsdino_runtime.device.open import open_device_pipeline, vision_graph
from ovsdino_runtime.engines import onnxruntime_cuda as ort_cuda
from ovsdino_runtime.engines.stream_engine import DeviceTensor
from ovsdino_runtime.pipelines.pipeline import open_host_pipeline
from ovsdino_runtime.segmenter import Segmenter


def without(monkeypatch, *packages):
    monkeypatch.setattr(cuda, "find_spec", lambda name: None if name in packages else find_spec(name))


def test_without_a_back_end_the_message_says_what_to_install(monkeypatch):
    without(monkeypatch, "pycuda", "cuda.bindings")
    wanted = r"^device 'cuda' needs cuda-python or pycuda, .*pip install '\.\[cuda\]' .*'\.\[pycuda\]'"
    with pytest.raises(EngineError, match=wanted):
        cuda.open_cuda()
    monkeypatch.setattr(device_open, "choose_kernels", pytest.fail)  # nothing is looked at before
    for engine in ("onnxruntime", "tensorrt", "tensorrt-rtx"):
        with pytest.raises(EngineError, match=wanted):
            Segmenter.load("nano", device="cuda", engine=engine)


def test_pycuda_comes_first_and_the_environment_decides(monkeypatch):
    monkeypatch.delenv(cuda.VARIABLE, raising=False)
    installed = {"pycuda", "cuda.bindings"}
    monkeypatch.setattr(cuda, "find_spec", lambda name: name if name in installed else None)
    assert cuda.choose_backend() == "pycuda"
    monkeypatch.setenv(cuda.VARIABLE, "cuda-python")
    assert cuda.choose_backend() == "cuda-python"
    monkeypatch.setenv(cuda.VARIABLE, "cupy")
    with pytest.raises(EngineError, match="OVSDINO_CUDA=cupy: expected pycuda or cuda-python"):
        cuda.choose_backend()
    installed.remove("pycuda")
    monkeypatch.setenv(cuda.VARIABLE, "pycuda")
    with pytest.raises(EngineError, match=r"OVSDINO_CUDA=pycuda: pycuda is not installed; .*'\.\[pycuda\]'"):
        cuda.choose_backend()
    monkeypatch.delenv(cuda.VARIABLE)
    assert cuda.choose_backend() == "cuda-python"


@pytest.mark.parametrize("device", ["cuda:", "cuda:-1", "cuda:first", "cpu:1"])
def test_a_device_that_is_none_is_refused(device):
    with pytest.raises(EngineError, match=f"device '{device}': expected cpu, cuda, or cuda:N"):
        Segmenter.load("nano", device=device)


def test_the_second_gpu_is_asked_for(bundle, monkeypatch):
    """Kernels are looked for before anything is opened, for the GPU that was named."""
    gpus = (Gpu("RTX 4090", "sm_89", "580.1"), Gpu("T4", "sm_75", "580.1"))
    monkeypatch.setattr(device_open, "find_gpus", lambda: gpus)
    monkeypatch.setattr(device_open, "open_cuda", pytest.fail)
    monkeypatch.setattr(device_open, "choose_backend", lambda: "cuda-python")
    for index, capability in enumerate(("sm_89", "sm_75")):
        with pytest.raises(EngineError, match=f"no kernel PhotoWindows runs on {capability}"):
            open_device_pipeline(bundle, RuntimeOptions(device=f"cuda:{index}"))
    with pytest.raises(EngineError, match="device 'cuda:2': CUDA sees 2 GPUs"):
        open_device_pipeline(bundle, RuntimeOptions(device="cuda:2"))


def test_fp32_on_a_gpu_is_not_tf32():
    assert ort_cuda.cuda_settings(1, OneStream()) == {
        "device_id": "1",
        "use_tf32": "0",
        "user_compute_stream": "7",
    }
    assert "user_compute_stream" not in ort_cuda.cuda_settings(0, None)


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
    engine = ort_cuda.OrtStreamEngine(bundle.file("vision.onnx"), OneStream(), provider=ort_cuda.CPU)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    features = np.full((2, 6, 8, 8), np.nan, np.float32)
    inputs = {"pixels": DeviceTensor(pixels.ctypes.data, pixels.shape)}
    outputs = {"features": DeviceTensor(features.ctypes.data, features.shape)}
    engine.enqueue(0, inputs, outputs=outputs, stream=OneStream())
    np.testing.assert_array_equal(features, engine.run({"pixels": pixels})["features"])
    other = type("Other", (OneStream,), {"handle": 8})()
    with pytest.raises(EngineError, match="has one context, on the stream that it was opened with"):
        engine.enqueue(0, inputs, outputs=outputs, stream=other)


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


@pytest.fixture
def gpu_bundle(tmp_path):
    """The packaged model with kernels for the GPU that is here."""
    import shutil

    from ovsdino_export.engines.kernels import compile_kernels, plan_device_kernels

    nano = load_bundle(find_bundle("nano"))
    folder = tmp_path / "staging"
    shutil.copytree(nano.path, folder, ignore=shutil.ignore_patterns("bundle.json"))
    kernels = compile_kernels(
        plan_device_kernels(), [find_gpus()[0].capability], staging=folder, report=lambda _: None
    )
    return write_bundle(tmp_path / "nano.ovs", replace(nano.manifest, kernels=kernels, files={}), folder)


@pytest.mark.gpu
@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_labels_on_a_gpu_are_those_of_the_processor(gpu_bundle, engine):
    """TensorRT's engines are built first: `ovsdino-export --bundle ... --engine tensorrt --gpu current`."""
    if engine != "onnxruntime":
        from ovsdino_export.engines.build import build_engine, choose_target

        pytest.importorskip(engine.replace("-", "_"))
        build_engine(gpu_bundle, "vision", target=choose_target(engine, "current"))
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
