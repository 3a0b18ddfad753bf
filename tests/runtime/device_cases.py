"""What the tests of the device pipeline share: bundles, photos, words; all on a host back end."""

import shutil
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS
from ovsdino_runtime.bundle.bundle import write_bundle
from ovsdino_runtime.device.pipeline import DevicePipeline
from ovsdino_runtime.engines.onnxruntime import open_engine
from ovsdino_runtime.engines.onnxruntime_cuda import CPU, OrtStreamEngine
from ovsdino_runtime.pipelines.pipeline import HostPipeline


def sibling(name):
    spec = spec_from_file_location(f"{name}_of_the_runtimes_tests", Path(__file__).with_name(f"{name}.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOST, KERNELS = sibling("host_device"), sibling("host_kernels")


class Engine(OrtStreamEngine):
    """ONNX Runtime on the CPU, run when its stream comes to it, in as many contexts as TensorRT has."""

    def __init__(self, bundle, streams, fail_at=None):
        super().__init__(bundle.file("vision.onnx"), streams.vision[0], CPU)
        self.contexts, self.max_count, self.capturable = 2, 2, True
        self.runs, self.fail_at = 0, fail_at
        self.shapes = {}  # by context

    def enqueue(self, context, inputs, *, outputs, stream):
        shape = inputs["pixels"].shape
        if stream.device.capturing is not None and self.shapes.get(context) != shape:
            raise EngineError(f"context {context} is captured before a plain run of {shape}")
        self.shapes[context] = shape

        def run():
            self.runs += 1
            if self.runs == self.fail_at:
                raise EngineError("the engine did not run")
            super(Engine, self).enqueue(0, inputs, outputs=outputs, stream=self._stream)

        stream.submit("do", run, f"context {context}")

    def close(self):
        """Nothing to release."""


def with_kernels(staging, manifest, tmp_path):
    folder = tmp_path / "staging"
    shutil.copytree(staging, folder, ignore=shutil.ignore_patterns("bundle.json"))
    kernels = HOST.host_kernels(folder)
    return write_bundle(tmp_path / "device.ovs", replace(manifest, kernels=kernels, files={}), folder)


def open_device(bundle, *, seed=0, run=KERNELS.run_reference, options=DEFAULT_OPTIONS, **engine):
    device = HOST.HostDevice(run, seed)
    pipeline = DevicePipeline(
        bundle,
        device,
        open_vision=lambda streams: Engine(bundle, streams, **engine),
        open_text=lambda _: open_engine(bundle, "text", threads=1),
        options=options,
    )
    return pipeline, device


def random_photo(height, width, seed=0):
    """Large patches of colour, so that classes have regions."""
    coarse = np.random.default_rng(seed).integers(
        0, 256, (-(-height // 9), -(-width // 9), 3), dtype=np.uint8
    )
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:height, :width]


def words(count, width=6, seed=0):
    """Embeddings that are there already, as from the cache."""
    embeddings = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    embeddings[:, 3:] = 0  # the tiny model's features have three channels
    future = Future()
    future.set_result(embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True))
    return future


def host_labels(bundle, photo, text, **options):
    host = HostPipeline(bundle, open_engine(bundle, "vision", threads=1), DEFAULT_OPTIONS)
    return host.label(photo, text, scores=True, **options)


def assert_same(actual, expected):
    assert actual.labels.shape == expected.labels.shape
    assert actual.labels.dtype == np.uint16
    same = actual.labels == expected.labels
    assert same.mean() >= 0.995
    # Pillow rounds twice when it resizes, the kernel once.
    np.testing.assert_allclose(actual.scores[same], expected.scores[same], atol=0.03)


WIDE = (90, 260)  # five windows, three runs of the engine
