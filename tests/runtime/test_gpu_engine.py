"""TensorRT engines around the library: threads, errors, null pointers, on a stand-in of the host."""

import gc
import hashlib
import logging
import shutil
import threading
from contextlib import nullcontext
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.bundle import write_bundle
from ovsdino_runtime.cuda.devices import Gpu
from ovsdino_runtime.engines import tensorrt as engine_run
from ovsdino_runtime.engines import tensorrt_library as library
from ovsdino_runtime.engines.cache import BATCHES, EngineKey, EngineRecord, store_engine
from ovsdino_runtime.engines.tensorrt import GpuEngine, open_cached_engine
from ovsdino_runtime.geometry.preprocess import normalise


def sibling(name):
    spec = spec_from_file_location(f"{name}_of_the_engine_tests", Path(__file__).with_name(f"{name}.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOST, TRT = sibling("host_device"), sibling("host_tensorrt")
PHOTOS = 200


def open_engine(monkeypatch, seed=0):
    device = HOST.HostDevice(run=None, seed=seed)
    trt = TRT.Tensorrt(device)
    monkeypatch.setattr(engine_run, "import_flavour", lambda _: trt)
    return GpuEngine(b"engine", "tensorrt", device=device), trt, device


def pixels(photo):
    """Window batches of other sizes and values for each photo."""
    return np.random.default_rng(photo).normal(size=(1 + photo % 4, 3, 4, 4)).astype(np.float32)


def count_wrong(engines, threads):
    """Run all photos through all engines, by several threads; count the answers that are wrong."""
    wrong, started = [], threading.Barrier(threads)

    def work(first):
        started.wait()
        for photo in range(first, PHOTOS, threads):
            for engine in engines:
                given = pixels(photo)
                try:
                    features = engine.run({"pixels": given})["features"]
                except Exception as error:  # noqa: BLE001 - what goes wrong without a lock
                    wrong.append(error)
                else:
                    if not np.array_equal(features, 2 * given + 1):
                        wrong.append(photo)

    workers = [threading.Thread(target=work, args=(first,)) for first in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return len(wrong)


def test_two_threads_on_two_engines_give_what_one_thread_gives(monkeypatch):
    opened = [open_engine(monkeypatch, seed) for seed in range(2)]
    engines = [engine for engine, _, _ in opened]
    assert count_wrong(engines, threads=1) == 0
    assert count_wrong(engines, threads=2) == 0
    for engine, _, device in opened:
        blocks = len(device.blocks)
        engine.run({"pixels": pixels(3)})
        assert len(device.blocks) == blocks == 2  # one piece on each side, kept
        engine.close()
        assert not device.blocks


def test_without_the_lock_answers_are_wrong(monkeypatch):
    """The test above can fail."""
    engine, _, _ = open_engine(monkeypatch)
    monkeypatch.setattr(engine, "_lock", nullcontext())
    assert count_wrong([engine], threads=2) > 0


def test_names_of_layers_do_not_slow_a_run_down(monkeypatch):
    engine, trt, _ = open_engine(monkeypatch)
    engine.run({"pixels": pixels(0)})
    assert [context.nvtx_verbosity for context in trt.engine.made] == ["none"]


def test_refused_shapes_and_addresses_are_errors_with_tensorrts_reason(monkeypatch):
    engine, trt, _ = open_engine(monkeypatch)
    with pytest.raises(EngineError, match=r"does not take pixels of shape \(5, 3, 4, 4\): it is outside the"):
        engine.run({"pixels": np.zeros((5, 3, 4, 4), np.float32)})
    trt.logger.log(TRT.Logger.WARNING, "nothing to worry about")
    trt.logger.log(TRT.Logger.ERROR, "IExecutionContext::setTensorAddress:\n  Error Code 3")
    monkeypatch.setattr(TRT.Context, "set_tensor_address", lambda *_: False)
    wanted = "address of pixels: IExecutionContext::setTensorAddress: Error Code 3$"
    with pytest.raises(EngineError, match=wanted):
        engine.run({"pixels": pixels(0)})
    monkeypatch.undo()
    monkeypatch.setattr(TRT.Context, "execute_async_v3", lambda *_: False)
    with pytest.raises(EngineError, match="the engine did not run: it gave no reason"):
        engine.run({"pixels": pixels(0)})


def test_an_engine_that_is_not_taken_says_why(monkeypatch):
    device = HOST.HostDevice(run=None)
    trt = TRT.Tensorrt(device)
    monkeypatch.setattr(engine_run, "import_flavour", lambda _: trt)
    trt.deserialize = lambda _: trt.logger.log(TRT.Logger.ERROR, "The engine plan file is not compatible")
    with pytest.raises(EngineError, match="does not take the engine: The engine plan file is not compatible"):
        GpuEngine(b"other", "tensorrt", device=device)


def test_a_context_that_is_null_is_an_error(monkeypatch):
    engine, trt, _ = open_engine(monkeypatch)
    monkeypatch.setattr(trt.engine, "create_execution_context", lambda: None)
    monkeypatch.setattr(
        library,
        "find_gpus",
        lambda: (Gpu(name="L4", capability="sm_89", driver="580.1", memory=0, cuda="13.0"),),
    )
    with pytest.raises(EngineError, match="makes no execution context: it gave no reason"):
        engine.run({"pixels": pixels(0)})


@pytest.mark.parametrize(
    ("version", "cuda", "expected"),
    [
        (
            "11.4.0.106",
            "12.4",
            r"it needs CUDA 13, the driver here \(550.1\) runs CUDA 12.4; update",
        ),
        ("11.4.0.106", "13.0", "it gave no reason"),
        ("10.9.0.34", "11.8", "it needs CUDA 12, .* to 525.60 or later, or install the tensorrt for CUDA 11"),
        ("10.9.0.34", "12.4", "it gave no reason"),
    ],
)
def test_a_null_pointer_names_the_driver_that_is_too_old(monkeypatch, version, cuda, expected):
    monkeypatch.setattr(
        library,
        "find_gpus",
        lambda: (Gpu(name="L4", capability="sm_89", driver="550.1", memory=0, cuda=cuda),),
    )
    errors = library.ErrorRecorder(TRT.Tensorrt(None))

    def factory():
        raise TypeError("pybind11::init(): factory function returned nullptr")

    with pytest.raises(EngineError, match=f"tensorrt {version} makes no builder: {expected}"):
        library.make("builder", factory, flavour="tensorrt", version=version, errors=errors)
    with pytest.raises(TypeError, match="another"):
        library.make(
            "builder",
            lambda: (_ for _ in ()).throw(TypeError("another")),
            flavour="tensorrt",
            version=version,
            errors=errors,
        )


def test_an_engine_that_is_dropped_by_another_thread_frees_its_memory(monkeypatch):
    engine, _, device = open_engine(monkeypatch)
    engine.run({"pixels": pixels(0)})
    assert device.blocks
    held = [engine]
    del engine
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert not device.blocks


def test_a_closed_engine_says_so(monkeypatch):
    engine, _, _ = open_engine(monkeypatch)
    engine.close()
    with pytest.raises(EngineError, match="the engine is closed; load the model again"):
        engine.run({"pixels": pixels(0)})


@pytest.fixture
def affine_bundle(staging, manifest, tmp_path):
    """Make the tiny bundle with a golden pair of the stand-in's own function, twice the pixels and 1."""
    folder = tmp_path / "staging"
    shutil.copytree(staging, folder, ignore=shutil.ignore_patterns("bundle.json"))
    image = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    features = 2 * normalise(image, manifest.preprocessing).transpose(2, 0, 1) + 1
    np.savez(folder / "golden.npz", image=image, features=features.astype(np.float16))
    return write_bundle(tmp_path / "affine.ovs", manifest, folder)


def keep_engine(bundle, monkeypatch, tmp_path, driver):
    """Put an engine that was built with a driver into a cache; the GPU here has driver 580.65."""
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    gpu = Gpu(name="L4", capability="sm_89", driver="580.65", memory=0, cuda="13.0")
    monkeypatch.setattr(engine_run, "find_gpus", lambda: (gpu,))
    device = HOST.HostDevice(run=None)
    trt = TRT.Tensorrt(device)
    monkeypatch.setattr(engine_run, "import_flavour", lambda _: trt)
    digest = engine_run.source_digest(bundle, "vision", "tensorrt")
    key = EngineKey(
        onnx=digest,
        flavour="tensorrt",
        version=trt.__version__,
        capabilities=("sm_89",),
        gpu=gpu.name,
        driver=driver,
        precision="fp32",
        batches=BATCHES,
    )
    data = b"an engine"
    store_engine(
        EngineRecord(
            record_version=1,
            key=key,
            model="tiny",
            graph="vision",
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            seconds=1.0,
            layers={},
            golden_cosine=1.0,
        ),
        data,
    )
    return device


@pytest.mark.parametrize(("driver", "warnings"), [("550.1", 1), ("580.65", 0)])
def test_an_engine_of_another_driver_is_loaded_with_a_warning(
    affine_bundle, monkeypatch, tmp_path, caplog, driver, warnings
):
    device = keep_engine(affine_bundle, monkeypatch, tmp_path, driver)
    with caplog.at_level(logging.WARNING):
        engine = open_cached_engine(affine_bundle, "vision", flavour="tensorrt", device=device)
    assert np.array_equal(engine.run({"pixels": pixels(3)})["features"], 2 * pixels(3) + 1)
    assert len(caplog.messages) == warnings
    if warnings:
        assert "was built with driver 550.1, here is 580.65; it is checked on the golden photo" in caplog.text
        assert "ovsdino-export --bundle" in caplog.text


def test_an_engine_of_another_driver_that_computes_something_else_is_refused(
    affine_bundle, monkeypatch, tmp_path
):
    device = keep_engine(affine_bundle, monkeypatch, tmp_path, "550.1")
    plain = TRT.Context.execute_async_v3

    def turned(context, handle):
        done = plain(context, handle)
        stream = next(stream for stream in device.streams if stream.handle == handle)
        out = context.addresses["features"]
        stream.submit("do", lambda: np.negative(*[device.tensor(out, "float32", context.shape)] * 2), "turn")
        return done

    monkeypatch.setattr(TRT.Context, "execute_async_v3", turned)
    with pytest.raises(
        EngineError, match=r"does not reproduce .*golden.npz: .*build it again: ovsdino-export"
    ):
        open_cached_engine(affine_bundle, "vision", flavour="tensorrt", device=device)


def test_rtx_keeps_compiled_kernels_beside_the_engine(monkeypatch, tmp_path):
    """The second start reads what the first one wrote; the graphs are RTX's own."""
    device = HOST.HostDevice(run=None)
    rtx = TRT.TensorrtRtx(device)
    monkeypatch.setattr(engine_run, "import_flavour", lambda _: rtx)
    file = tmp_path / "digest.runtime"
    for compiled, read in ((b"kernels", None), (b"more kernels", b"kernels")):
        rtx.compiled = compiled
        engine = GpuEngine(b"engine", "tensorrt-rtx", device=device, runtime_cache=file)
        assert not engine.capturable
        engine.run({"pixels": pixels(0)})
        engine.run({"pixels": pixels(1)})
        engine.keep_runtime_cache()
        assert file.read_bytes() == compiled
        (cache,) = rtx.caches
        assert cache.read == read
        assert [config.cuda_graph_strategy for config in rtx.configs] == ["whole graph"]
        assert [config.cache for config in rtx.configs] == [cache]
        rtx.caches.clear()
        rtx.configs.clear()
        engine.close()


def test_what_we_use_is_in_tensorrt_for_rtx():
    rtx = pytest.importorskip("tensorrt_rtx")
    used = {
        "ICudaEngine": "create_runtime_config create_execution_context",
        "IRuntimeConfig": "create_runtime_cache set_runtime_cache cuda_graph_strategy",
        "IRuntimeCache": "serialize deserialize",
        "CudaGraphStrategy": "WHOLE_GRAPH_CAPTURE",
        "IBuilderConfig": "num_compute_capabilities set_compute_capability",
    }
    missing = {
        f"{owner}.{name}"
        for owner, names in used.items()
        for name in names.split()
        if not hasattr(getattr(rtx, owner, None), name)
    }
    assert not missing
