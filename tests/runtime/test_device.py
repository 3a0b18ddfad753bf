"""The device pipeline on a host back end, against the host's pipeline: the same labels in any order."""

import gc
import json
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pytest

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.base.trace import Trace
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.device.plan import plan_batches
from ovsdino_runtime.engines.onnxruntime import open_engine
from ovsdino_runtime.pipelines.pipeline import HostPipeline

pytest.importorskip("torch")
HERE = Path(__file__)


def sibling(name):
    spec = spec_from_file_location(f"{name}_of_the_runtimes_tests", HERE.with_name(f"{name}.py"))
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CASES = sibling("device_cases")
HOST, KERNELS, WIDE = CASES.HOST, CASES.KERNELS, CASES.WIDE
open_device, random_photo, words = CASES.open_device, CASES.random_photo, CASES.words
host_labels, assert_same, with_kernels = CASES.host_labels, CASES.assert_same, CASES.with_kernels


@pytest.fixture
def device_bundle(staging, manifest, tmp_path):
    """The tiny bundle with kernels for the host back end."""
    return with_kernels(staging, manifest, tmp_path)


SIZES = [(90, 150), (1, 1), (64, 64), (1, 40), (333, 21), (300, 2000)]


@pytest.mark.parametrize("threshold", [None, 0.6])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_labels_are_the_hosts(device_bundle, size, threshold):
    pipeline, _ = open_device(device_bundle)
    photo, text = random_photo(*size), words(7)
    actual = pipeline.label(photo, text, threshold=threshold, scores=True)
    assert_same(actual, host_labels(device_bundle, photo, text, threshold=threshold))


def test_any_order_of_work_gives_the_same_labels(device_bundle):
    """Photos and classes change, so that memory is used again for something else."""
    cases = [((90, 150), 5), ((150, 90), 5), ((150, 90), 9), ((64, 64), 2)]
    expected = [host_labels(device_bundle, random_photo(*size), words(n), threshold=0.5) for size, n in cases]
    for seed in range(6):
        pipeline, _ = open_device(device_bundle, seed=seed)
        for (size, count), wanted in zip(cases, expected, strict=True):
            assert_same(pipeline.label(random_photo(*size), words(count), threshold=0.5, scores=True), wanted)


def test_what_a_device_saw_is_named_as_by_the_host(device_bundle):
    """Any order of work, sizes in turns, labelling in between; the host's way takes the features too."""
    host = HostPipeline(device_bundle, open_engine(device_bundle, "vision", threads=1), DEFAULT_OPTIONS)
    for seed in range(4):
        pipeline, device = open_device(device_bundle, seed=seed)
        for size in (WIDE, (90, 150), (64, 64), WIDE):
            photo = random_photo(*size)
            image_features = pipeline.encode(photo)
            assert list(image_features.timings) == ["upload", "resize", "vision", "download"]
            pipeline.label(random_photo(*size, seed=1), words(3), threshold=None, scores=False)
            for count, threshold in ((7, None), (4, 0.5)):
                wanted = host_labels(device_bundle, photo, words(count), threshold=threshold)
                for way in (pipeline, host):
                    actual = way.segment(image_features, words(count), threshold=threshold, scores=True)
                    assert_same(actual, wanted)
        assert not any(stream.queue for stream in device.streams)
        pipeline.close()
        assert not device.blocks


def test_a_failure_while_it_sees_leaves_nothing_behind(device_bundle):
    pipeline, device = open_device(device_bundle, fail_at=2)
    photo, text = random_photo(*WIDE), words(5)
    with pytest.raises(EngineError, match="the engine did not run"):
        pipeline.encode(photo)
    assert not any(stream.queue for stream in device.streams)
    actual = pipeline.segment(pipeline.encode(photo), text, threshold=None, scores=True)
    assert_same(actual, host_labels(device_bundle, photo, text, threshold=None))


def test_a_missing_event_is_found_by_the_order_of_work(device_bundle, monkeypatch):
    """The test above can fail: without events some order gives other labels."""
    monkeypatch.setattr(HOST.HostStream, "wait", lambda *_: None)
    photo, text = random_photo(90, 150), words(5)
    expected = host_labels(device_bundle, photo, text, threshold=None).labels
    wrong = 0
    for seed in range(6):
        pipeline, _ = open_device(device_bundle, seed=seed)
        try:
            labels = pipeline.label(photo, text, threshold=None, scores=False).labels
        except (
            AssertionError,
            LookupError,
            RuntimeError,
        ):  # absurd integers in memory nobody has written yet
            wrong += 1
        else:
            wrong += (labels != expected).any()
    assert wrong


def test_classes_are_taken_some_at_a_time(device_bundle, monkeypatch):
    monkeypatch.setattr("ovsdino_runtime.device.plan.SCORES_BYTES", 8000)
    pipeline, device = open_device(device_bundle)
    photo, text = random_photo(90, 150), words(23)
    actual = pipeline.label(photo, text, threshold=0.5, scores=True)
    assert [name for _, _, name in device.log].count("MergeArgmax") > 2
    assert_same(actual, host_labels(device_bundle, photo, text, threshold=0.5))


def test_the_steady_state_takes_no_memory(device_bundle):
    pipeline, device = open_device(device_bundle)
    at_load, blocks = pipeline.memory.allocations, len(device.blocks)
    for size, count in [((90, 150), 5), ((150, 90), 40), ((90, 150), 5)]:
        pipeline.label(random_photo(*size), words(count), threshold=None, scores=False)
    assert (pipeline.memory.allocations, len(device.blocks)) == (at_load, blocks)
    pipeline.label(random_photo(1200, 2000), words(5), threshold=None, scores=False)
    assert pipeline.memory.allocations > at_load  # larger than what has room from the start
    assert len(device.blocks) == blocks
    pipeline.close()
    assert not device.blocks


def test_windows_go_to_two_contexts_in_turns_and_text_has_its_own_stream(device_bundle):
    pipeline, device = open_device(device_bundle)
    pipeline.label(random_photo(*WIDE), words(5), threshold=None, scores=False)
    runs = [(stream, name) for stream, _, name in device.log if name.startswith("context")]
    assert runs == [("vision 0", "context 0"), ("vision 0", "context 0"), ("vision 1", "context 1")]
    assert [stream for stream, _, name in device.log if name == "copy in"].count("text") == 1
    names = [name for _, _, name in device.log if name]
    assert (
        names.index("context 0")
        < names.index("copy in", names.index("PhotoWindows"))
        < names.index("CosineScores")
    )
    assert {stream for stream, _, name in device.log if name == "copy out"} == {"copy"}
    assert [name for name in names if name == "copy out"] == ["copy out"]  # the labels alone come back


def test_text_is_waited_for_while_windows_are_in_flight(device_bundle):
    pipeline, device = open_device(device_bundle)

    class Late(Future):
        def done(self):
            return False

        def result(self):
            image_features.append([name for _, _, name in device.log if name.startswith("context")])
            return words(5).result()

    image_features = []
    pipeline.label(random_photo(*WIDE), Late(), threshold=None, scores=False)
    assert len(image_features[0]) == 3  # all windows were submitted before


def test_the_same_size_and_classes_again_are_one_graph(device_bundle):
    pipeline, device = open_device(device_bundle)
    text, runs = words(5), []
    for seed, threshold in enumerate([0.5, 0.5, 0.6, 0.6]):
        photo = random_photo(90, 150, seed)
        actual = pipeline.label(photo, text, threshold=threshold, scores=True)
        assert_same(actual, host_labels(device_bundle, photo, text, threshold=threshold))
        runs.append(device.launches)
    assert runs == [0, 1, 2, 3]
    assert list(actual.timings) == ["graph"]
    for size, wanted in [((150, 90), words(5)), ((150, 90), words(6))]:  # off when something changes
        pipeline.label(random_photo(*size), wanted, threshold=0.5, scores=True)
    assert device.launches == 3
    pipeline.close()


def test_a_graph_is_captured_only_after_a_plain_run_of_the_same_shapes(device_bundle):
    """The engine's stand-in refuses to be captured in a shape other than that of its last plain run."""
    pipeline, device = open_device(device_bundle)
    text, wide, square = words(5), random_photo(*WIDE), random_photo(64, 64)
    expected = host_labels(device_bundle, wide, text, threshold=None)
    for between in (pipeline.encode, lambda photo: pipeline.label(photo, text, threshold=None, scores=True)):
        pipeline.label(wide, text, threshold=None, scores=True)
        between(square)
        launches = device.launches
        for launched in (0, 1, 2):
            actual = pipeline.label(wide, text, threshold=None, scores=True)
            assert_same(actual, expected)
            assert device.launches == launches + launched


@pytest.mark.parametrize("windows", range(1, 30))
@pytest.mark.parametrize(("max_count", "contexts"), [(4, 2), (2, 2), (4, 1), (1, 2)])
def test_windows_are_split_evenly_and_a_context_keeps_its_shape(windows, max_count, contexts):
    batches = plan_batches(windows, max_count=max_count, contexts=contexts)
    covered = [window for batch in batches for window in range(batch.first, batch.first + batch.count)]
    assert covered == list(range(windows))
    counts = [batch.count for batch in batches]
    assert len(batches) == -(-windows // max_count)
    assert max(counts) <= max_count
    assert max(counts) - min(counts) <= 1
    assert {batch.context for batch in batches} <= set(range(contexts))
    if contexts > 1:
        shapes = {(batch.context, batch.count) for batch in batches}
        assert len(shapes) == len({context for context, _ in shapes})


def test_a_pipeline_that_is_dropped_by_another_thread_frees_its_memory(device_bundle):
    pipeline, device = open_device(device_bundle)
    pipeline.label(random_photo(64, 64), words(3), threshold=None, scores=False)
    assert device.blocks
    held = [pipeline]
    del pipeline
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    gc.collect()
    assert not device.blocks
    assert device.closed


def test_a_closed_pipeline_says_so_and_closing_twice_is_no_error(device_bundle):
    pipeline, device = open_device(device_bundle)
    pipeline.close()
    pipeline.close()
    assert device.closed
    for call in (
        pipeline.encode,
        lambda photo: pipeline.label(photo, words(2), threshold=None, scores=False),
    ):
        with pytest.raises(EngineError, match="host back end: the model is closed; load it again"):
            call(random_photo(64, 64))


def test_closing_while_photos_are_in_flight_waits_for_them(device_bundle):
    photo, text = random_photo(*WIDE), words(5)
    expected = host_labels(device_bundle, photo, text, threshold=None)
    pipeline, device = open_device(device_bundle)
    results, refused, started = [], [], threading.Barrier(4)

    def work():
        started.wait()
        while not refused:
            try:
                results.append(pipeline.label(photo, text, threshold=None, scores=True))
            except EngineError as error:  # noqa: PERF203 - the pipeline is closed at some point
                refused.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait()
    while not results:
        time.sleep(0.01)
    pipeline.close()
    for thread in threads:
        thread.join()
    assert all("the model is closed" in text for text in refused)
    for actual in results:
        assert_same(actual, expected)
    assert not device.blocks


def test_a_graph_does_not_outlive_the_memory_that_it_reads(device_bundle):
    pipeline, device = open_device(device_bundle)
    photo, few, many = random_photo(30, 40), words(300), words(600)
    expected = host_labels(device_bundle, photo, few, threshold=None)
    for text in (few, few, few, many, few, few, few):
        actual = pipeline.label(photo, text, threshold=None, scores=True)
    assert_same(actual, expected)
    assert device.launches == 4


def test_a_failure_in_the_middle_leaves_nothing_behind(device_bundle):
    for fail_at in (1, 2, 4):
        pipeline, device = open_device(device_bundle, seed=fail_at, fail_at=fail_at)
        photo, text = random_photo(*WIDE), words(5)
        if fail_at == 4:
            pipeline.label(photo, text, threshold=None, scores=True)
        with pytest.raises(EngineError, match="the engine did not run"):
            pipeline.label(photo, text, threshold=None, scores=True)
        assert not any(stream.queue for stream in device.streams)
        actual = pipeline.label(photo, text, threshold=None, scores=True)
        assert_same(actual, host_labels(device_bundle, photo, text, threshold=None))
        pipeline.close()
        assert not device.blocks


def test_a_trace_shows_the_streams(device_bundle, tmp_path):
    with Trace(tmp_path / "trace.json") as trace:
        pipeline, device = open_device(device_bundle, options=RuntimeOptions(trace=trace))
        text = words(5)
        for _ in range(3):
            result = pipeline.label(random_photo(*WIDE), text, threshold=None, scores=False)
    assert list(result.timings) == ["upload", "resize", "vision", "merge", "download", "text"]
    assert not device.launches  # inside a graph stages have no times
    events = json.loads((tmp_path / "trace.json").read_text())
    tracks = {event["args"]["name"] for event in events if event["ph"] == "M"}
    assert tracks == {"copy", "vision 0", "vision 1", "text"}
    assert sum(event["name"] == "vision" for event in events) == 9


def test_a_bundle_without_kernels_is_refused_with_the_command(bundle):
    with pytest.raises(EngineError, match=r"no kernel PhotoWindows .* export it again with --kernels host"):
        open_device(bundle)


def test_whole_photos_are_refused(device_bundle):
    with pytest.raises(EngineError, match="inference 'whole' runs on device 'cpu' alone"):
        open_device(device_bundle, options=RuntimeOptions(inference="whole"))


def test_nano_gives_the_hosts_labels(tmp_path):
    packaged = load_bundle(find_bundle("nano"))
    plain = replace(packaged.manifest, refine=None)  # refined labels are made on the processor
    bundle = with_kernels(packaged.path, plain, tmp_path)
    from PIL import Image

    file = sorted((HERE.parents[2] / "examples").glob("*.jpg"))[0]
    photo = np.asarray(Image.open(file).convert("RGB"))
    from ovsdino_runtime.base.paths import cache_dir
    from ovsdino_runtime.text.cache import TextCache
    from ovsdino_runtime.text.encoder import TextEncoder
    from ovsdino_runtime.text.vocabulary import load_vocabulary

    text = Future()
    encoder = TextEncoder(bundle, TextCache(cache_dir() / "text.sqlite3"), threads=1)
    text.set_result(encoder.encode_classes(load_vocabulary("ade150"), bundle.manifest.templates))
    pipeline, _ = open_device(bundle)
    actual = pipeline.label(photo, text, threshold=0.4, scores=True)
    expected = host_labels(bundle, photo, text, threshold=0.4)
    assert len(np.unique(expected.labels)) > 3
    assert_same(actual, expected)


@pytest.mark.parametrize("threshold", [0.5, None])
@pytest.mark.parametrize(
    "options",
    [RuntimeOptions(refine=True), RuntimeOptions(presence=0.5), RuntimeOptions(refine=True, presence=0.5)],
)
def test_labels_of_the_processor_are_made_of_the_devices_features(device_bundle, options, threshold):
    pipeline, _ = open_device(device_bundle, options=options)
    photo, text = random_photo(90, 150), words(5)
    host = HostPipeline(device_bundle, open_engine(device_bundle, "vision", threads=1), options)
    actual = pipeline.label(photo, text, threshold=threshold, scores=True)
    assert_same(actual, host.label(photo, text, threshold=threshold, scores=True))
    assert list(actual.timings)[-2:] == ["text", "merge"]


def test_the_kernels_themselves_give_the_hosts_labels():
    """In a child process, for Triton's interpreter is chosen when Triton is imported."""
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"{HERE}::interpreted"]
    command += ["-o", "python_functions=interpreted"]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    done = subprocess.run(
        command, cwd=HERE.parents[2], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr
    assert "1 passed" in done.stdout


def interpreted(device_bundle):
    """Run by the test above."""
    pipeline, _ = open_device(device_bundle, run=KERNELS.run_interpreted)
    for size in [(40, 70), (1, 1)]:
        photo, text = random_photo(*size), words(5)
        actual = pipeline.label(photo, text, threshold=0.5, scores=True)
        assert_same(actual, host_labels(device_bundle, photo, text, threshold=0.5))


def test_the_benchmark_measures_a_pipeline(device_bundle):
    """On the host back end its times mean nothing; what is counted does."""
    bench = pytest.importorskip("ovsdino_benchmarks.latency.device")
    pipeline, device = open_device(device_bundle)
    host = HostPipeline(device_bundle, open_engine(device_bundle, "vision", threads=1), DEFAULT_OPTIONS)
    request = bench.DeviceRequest(
        model=str(device_bundle.path), sizes=((90, 70), (150, 90)), classes=(2, 5), repeats=3, warmup=1
    )
    said = []
    report = bench.measure_device(device_bundle, pipeline, host=host, request=request, report=said.append)
    assert said == [
        "90x70, 2 classes",
        "90x70, 5 classes",
        "150x90, 2 classes",
        "150x90, 5 classes",
        "20 new names",
    ]
    assert [(case.size, case.classes) for case in report.cases] == [
        ("90x70", 2),
        ("90x70", 5),
        ("150x90", 2),
        ("150x90", 5),
    ]
    assert all(case.agreement >= 0.995 and not case.allocations for case in report.cases)
    assert device.launches == 4 * (3 + 1)  # without the first time of each, and never in the plain runs
    assert report.overlap.alone > 0
    assert len(list(bench.describe_device_report(report))) == 6
