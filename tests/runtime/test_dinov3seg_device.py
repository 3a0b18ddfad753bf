"""dinov3.seg on a device's memory and streams, on a host back end: the processor's labels, in any order."""

import gc
import json
import threading
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from ovsdino_runtime.base.errors import EngineError, PhotoError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.base.trace import Trace
from ovsdino_runtime.bundle.manifest import DINOV3SEG_STAGES
from ovsdino_runtime.device import dinov3seg_open
from ovsdino_runtime.device.dinov3seg import Dinov3segDevicePipeline
from ovsdino_runtime.engines.onnxruntime import open_engine
from ovsdino_runtime.engines.onnxruntime_cuda import CPU, OrtStreamEngine
from ovsdino_runtime.pipelines import dinov3seg_open as host_open
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from ovsdino_runtime.pipelines.dinov3seg_open import verify_dinov3seg
from ovsdino_runtime.pipelines.pipeline import open_pipeline
from ovsdino_runtime.segmenter import Segmenter
from tests.runtime.dinov3seg_bundle import colour_bundle, table

pytest.importorskip("torch")  # the host back end describes the exporter's kernels


def sibling(name):
    spec = spec_from_file_location(f"{name}_of_dinov3segs_tests", Path(__file__).with_name(f"{name}.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


HOST = sibling("host_device")
STAGES = ("vision", *DINOV3SEG_STAGES)


class Engine(OrtStreamEngine):
    """ONNX Runtime on the processor, run when its stream comes to it."""

    def __init__(self, stage, file, stream, runs):
        super().__init__(file, stream, CPU)
        self.stage, self.runs, self.failing, self.kept = stage, runs, False, 0

    def enqueue(self, context, inputs, *, outputs, stream):
        assert stream is self._stream

        def run():
            if self.failing:
                self.failing = False
                raise EngineError(f"{self.stage} did not run")
            self.runs.append((self.stage, next(iter(inputs.values())).shape[0]))
            super(Engine, self).enqueue(context, inputs, outputs=outputs, stream=stream)

        stream.submit("do", run, self.stage)

    def keep_runtime_cache(self):
        self.kept += 1


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """The bundle; do not change it."""
    return colour_bundle(tmp_path_factory.mktemp("colours"))


def open_device(bundle, *, seed=0, options=DEFAULT_OPTIONS):
    device, runs = HOST.HostDevice(None, seed), []
    pipeline = Dinov3segDevicePipeline(
        bundle,
        device,
        open_stage=lambda stage, stream: Engine(stage, bundle.file(f"{stage}.onnx"), stream, runs),
        open_text=lambda _: open_engine(bundle, "text", threads=1),
        options=options,
    )
    return pipeline, device, runs


def host(bundle, options=DEFAULT_OPTIONS):
    engines = {stage: open_engine(bundle, stage, threads=1) for stage in STAGES}
    return Dinov3segPipeline(bundle, engines, options=options)


def words(count):
    future = Future()
    future.set_result(table()[3 : 3 + count])
    return future


def photo(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (-(-height // 9), -(-width // 9), 3), np.uint8)
    return np.kron(coarse, np.ones((9, 9, 1), np.uint8))[:height, :width]


def assert_same(actual, expected):
    assert actual.labels.dtype == np.uint16
    same = actual.labels == expected.labels
    assert same.mean() >= 0.999
    np.testing.assert_allclose(actual.scores[same], expected.scores[same], atol=2e-3)


def test_any_order_of_work_gives_the_processors_labels(colours):
    """Sizes and numbers of classes change; of 40 classes the best are refined."""
    cases = [((90, 150), 3), ((64, 64), 40), ((150, 90), 9), ((20, 300), 1)]
    reference = host(colours)
    expected = [
        reference.label(photo(*size), words(count), threshold=threshold, scores=True)
        for (size, count), threshold in zip(cases, (None, 0.5, None, 0.5), strict=True)
    ]
    for seed in range(5):
        pipeline, device, _ = open_device(colours, seed=seed)
        for (size, count), threshold, wanted in zip(cases, (None, 0.5, None, 0.5), expected, strict=True):
            actual = pipeline.label(photo(*size), words(count), threshold=threshold, scores=True)
            assert_same(actual, wanted)
            assert not any(stream.queue for stream in device.streams)
        pipeline.close()
        assert not device.blocks
        assert device.closed


def test_a_missing_event_is_found_by_the_order_of_work(colours, monkeypatch):
    """The test above can fail."""
    expected = host(colours).label(photo(90, 150), words(5), threshold=None, scores=True).scores
    monkeypatch.setattr(HOST.HostStream, "wait", lambda *_: None)
    wrong = 0
    for seed in range(8):
        pipeline, _, _ = open_device(colours, seed=seed)
        scores = pipeline.label(photo(90, 150), words(5), threshold=None, scores=True).scores
        wrong += not np.allclose(scores, expected, atol=2e-3)
    assert wrong


def test_features_are_kept_on_the_host_for_other_words(colours):
    pipeline, _, _ = open_device(colours)
    reference = host(colours)
    seen = [pipeline.encode(photo(90, 150, seed)) for seed in range(2)]
    assert list(seen[0].timings)[:2] == ["upload", "guidance"]
    for seed, count in ((0, 5), (1, 40), (0, 9)):
        wanted = reference.label(photo(90, 150, seed), words(count), threshold=0.5, scores=True)
        for way in (pipeline, reference):
            assert_same(way.segment(seen[seed], words(count), threshold=0.5, scores=True), wanted)
    with pytest.raises(PhotoError, match="another model"):
        pipeline.segment(replace(seen[0], model="other"), words(3), threshold=None, scores=False)


@pytest.mark.parametrize("whole", [False, True])
def test_windows_are_batched_and_left_out_on_request(colours, whole):
    options = RuntimeOptions(inference="whole" if whole else "slide")
    pipeline, _, runs = open_device(colours, options=options)
    actual = pipeline.label(photo(90, 150), words(5), threshold=None, scores=True)
    wanted = host(colours, options).label(photo(90, 150), words(5), threshold=None, scores=True)
    assert_same(actual, wanted)
    # 9 windows of 32 px with a stride of 16 on a view of 64 px, 4 at once at most: sizes differ by one
    assert [count for stage, count in runs if stage == "vision"] == ([] if whole else [3, 3, 3])


def test_the_steady_state_takes_no_memory(colours):
    pipeline, device, _ = open_device(colours)
    pipeline.label(photo(90, 150), words(8), threshold=None, scores=False)
    taken, blocks = pipeline.memory.allocations, len(device.blocks)
    for size, count in (((300, 200), 8), ((64, 64), 3), ((90, 150), 40)):  # 8 of the 40 are refined
        pipeline.label(photo(*size), words(count), threshold=None, scores=False)
        seen = pipeline.encode(photo(*size))
        pipeline.segment(seen, words(count), threshold=None, scores=False)
    assert (pipeline.memory.allocations, len(device.blocks)) == (taken, blocks)


def test_guidance_has_a_stream_of_its_own_and_its_maps_stay_on_the_device(colours):
    pipeline, device, _ = open_device(colours)
    pipeline.label(photo(90, 150), words(5), threshold=None, scores=False)
    work = [(stream, name) for stream, _, name in device.log if name]
    assert [stream for stream, name in work if name == "guidance"] == ["guidance"]
    assert {stream for stream, name in work if name in ("vision", "whole", "refine", "late")} == {"vision"}
    names = [name for _, name in work]
    assert names.index("guidance") < names.index("vision")  # submitted first: neither waits for the other
    copies = [name for name in names if name == "copy out"]
    assert len(copies) == 3  # features of windows and whole, and the logits


def test_logits_are_merged_while_others_are_decoded(colours, monkeypatch):
    monkeypatch.setattr("ovsdino_runtime.device.dinov3seg.DECODED_AT_ONCE", 2)
    pipeline, device, runs = open_device(colours)
    actual = pipeline.label(photo(90, 150), words(7), threshold=None, scores=True)
    assert [count for stage, count in runs if stage == "decoder"] == [2, 2, 2, 1]
    wanted = host(colours).label(photo(90, 150), words(7), threshold=None, scores=True)
    assert_same(actual, wanted)
    names = [(kind, name) for stream, kind, name in device.log if stream == "vision"]
    decoded = [place for place, (_, name) in enumerate(names) if name == "decoder"]
    for place in decoded:  # each portion has a copy and an event of its own behind it
        assert names[place + 1 : place + 3] == [("do", "copy out"), ("record", "")]


def test_a_failure_leaves_nothing_in_flight(colours):
    pipeline, device, _ = open_device(colours)
    wanted = host(colours).label(photo(90, 150), words(5), threshold=None, scores=True)
    for stage in STAGES:
        pipeline._engines[stage].failing = True
        with pytest.raises(EngineError, match=f"{stage} did not run"):
            pipeline.label(photo(90, 150), words(5), threshold=None, scores=True)
        assert not any(stream.queue for stream in device.streams)
        assert_same(pipeline.label(photo(90, 150), words(5), threshold=None, scores=True), wanted)


def test_closed_dropped_and_used_by_threads(colours):
    pipeline, device, _ = open_device(colours)
    cases = [(seed, 3 + seed) for seed in range(6)]
    reference = host(colours)
    expected = [
        reference.label(photo(60, 90, seed), words(count), threshold=None, scores=True)
        for seed, count in cases
    ]
    found = {}

    def work(first):
        for index in range(first, len(cases), 3):
            seed, count = cases[index]
            found[index] = pipeline.label(photo(60, 90, seed), words(count), threshold=None, scores=True)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, wanted in enumerate(expected):
        assert_same(found[index], wanted)
    pipeline.close()
    pipeline.close()
    with pytest.raises(EngineError, match="the model is closed; load it again"):
        pipeline.label(photo(60, 90), words(3), threshold=None, scores=False)
    assert not device.blocks
    held = [open_device(colours)]
    device = held[0][1]
    assert device.blocks
    held.clear()
    gc.collect()
    assert not device.blocks


def test_a_trace_shows_guidance_beside_vision(colours, tmp_path):
    with Trace(tmp_path / "trace.json") as trace:
        pipeline, _, _ = open_device(colours, options=RuntimeOptions(trace=trace))
        pixels = pipeline.label(photo(90, 150), words(5), threshold=None, scores=False)
    events = json.loads((tmp_path / "trace.json").read_text())
    tracks = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert {"copy", "vision", "guidance"} <= tracks
    stages = ["upload", "guidance", "vision", "whole", "fuse", "refine", "late", "decoder", "text", "merge"]
    assert sorted(pixels.timings) == sorted(stages)


def test_the_golden_view_is_reproduced_or_the_engine_refused(colours):
    pipeline, _, _ = open_device(colours)
    assert verify_dinov3seg(colours, pipeline) > 0.9999
    late = pipeline._engines["late"]
    pipeline._engines["late"] = Engine("late", colours.file("late.onnx"), late._stream, late.runs)
    plain = pipeline._engines["late"].enqueue

    def without_text(context, inputs, *, outputs, stream):
        text = stream.device.tensor(inputs["text"].address, "float32", inputs["text"].shape)
        stream.submit("do", lambda: text.fill(1))
        plain(context, inputs, outputs=outputs, stream=stream)

    pipeline._engines["late"].enqueue = without_text
    with pytest.raises(EngineError, match=r"does not reproduce .*golden.npz: mean cosine .* of the labels"):
        verify_dinov3seg(colours, pipeline)


@pytest.mark.parametrize("engine", ["onnxruntime", "tensorrt", "tensorrt-rtx"])
def test_each_graph_is_opened_on_the_gpu_and_labels_are_the_processors(colours, flag, monkeypatch, engine):
    opened, engines, devices = [], [], []

    def open_it(kind, file, stream):
        opened.append((kind, file.stem))
        engines.append(Engine(file.stem, file, stream, []))
        return engines[-1]

    def read(bundle, graph, *, flavour, device):
        assert device is devices[-1]
        return open_it(flavour, bundle.file(f"{graph}.onnx"), device.streams[2 if graph == "guidance" else 1])

    monkeypatch.setattr(
        dinov3seg_open, "open_cuda", lambda _: devices.append(HOST.HostDevice(None)) or devices[-1]
    )
    monkeypatch.setattr(dinov3seg_open, "find_or_build_engine", lambda *_, **__: None)
    monkeypatch.setattr(dinov3seg_open, "read_cached_engine", read)
    monkeypatch.setattr(
        dinov3seg_open,
        "OrtStreamEngine",
        lambda file, stream, index: open_it("onnxruntime", file, stream),  # noqa: ARG005
    )
    result = Segmenter.load(colours.path, device="cuda", engine=engine)(flag, "blue, red, green")
    expected = Segmenter.load(colours.path, threads=1)(flag, "blue, red, green")
    np.testing.assert_array_equal(result.labels, expected.labels)
    graphs = {name for kind, name in opened if kind == engine}
    assert graphs - {"text"} == set(STAGES)
    assert ("text" in graphs) == (engine == "onnxruntime")  # TensorRT has no engine of it
    assert {made.kept for made in engines} == {int(engine != "onnxruntime")}  # RTX's compiled kernels
    monkeypatch.setattr(host_open, "GOLDEN_AGREEMENT", 1.1)
    with pytest.raises(EngineError, match="does not reproduce"):  # proven each time: GPUs change
        open_pipeline(colours, RuntimeOptions(device="cuda", engine=engine))
    assert devices[-1].closed
    assert not devices[-1].blocks
