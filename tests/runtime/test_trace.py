import copy
import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.segmenter import Segmenter


def read(file):
    """Spans by stage, and the name of each track."""
    events = json.loads(file.read_text())
    tracks = {event["tid"]: event["args"]["name"] for event in events if event["ph"] == "M"}
    return [event | {"track": tracks[event["tid"]]} for event in events if event["ph"] == "X"]


def test_spans_have_their_times_and_threads(tmp_path):
    file = tmp_path / "deep" / "trace.json"
    with Trace(file) as trace:
        with trace.span("outer", photo="a.jpg"):
            worker = threading.Thread(target=lambda: wait(trace), name="worker")
            worker.start()
            worker.join()
        start = time.perf_counter()
        trace.add("kernel", track="stream 1", start=start, seconds=0.25)
    inner, outer, kernel = read(file)
    assert (inner["name"], inner["track"]) == ("inner", "worker")
    assert (outer["track"], outer["args"]) == (threading.current_thread().name, {"photo": "a.jpg"})
    assert inner["dur"] >= 10_000  # [us]
    assert outer["ts"] <= inner["ts"]
    assert inner["ts"] + inner["dur"] <= outer["ts"] + outer["dur"] + 1
    assert (kernel["track"], kernel["dur"]) == ("stream 1", 250_000)


def wait(trace):
    with trace.span("inner"):
        time.sleep(0.01)


def test_a_stage_that_fails_is_taken_down(tmp_path):
    with Trace(tmp_path / "trace.json") as trace, pytest.raises(ValueError, match="no"), trace.span("bad"):
        raise ValueError("no")
    assert [span["name"] for span in read(tmp_path / "trace.json")] == ["bad"]


def test_without_a_file_nothing_is_taken_down(tmp_path):
    with NO_TRACE.span("stage"):
        pass
    assert not NO_TRACE.on
    with pytest.raises(OutputError, match="cannot be written: Is a directory"):
        Trace(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no disk that is always full")
def test_options_go_to_another_process_without_their_trace(tmp_path):
    with Trace(tmp_path / "trace.json") as trace:
        there = copy.deepcopy(RuntimeOptions(threads=2, trace=trace))  # as pickle does
    assert there == RuntimeOptions(threads=2)
    assert not there.trace.on


def test_a_full_disk_ends_the_trace_and_not_the_work(caplog):
    with Trace(Path("/dev/full")) as trace:
        for index in range(1000):
            with trace.span("stage", index=index):
                pass
    assert not trace.on
    assert "No space left on device; the trace" in caplog.text


def test_text_is_encoded_while_windows_are_in_flight(tmp_path):
    """Misses: the text graph is loaded and run inside the span of vision; hits: it is not run at all."""
    photo = np.random.default_rng(0).integers(0, 256, (200, 800, 3), dtype=np.uint8)  # 8 windows
    words = [f"a thing of kind {i}" for i in range(20)]
    for name in ("misses", "hits"):
        with Trace(tmp_path / name) as trace:
            Segmenter.load("nano", threads=1, trace=trace)(photo, words)
    spans = read(tmp_path / "misses")
    vision = next(span for span in spans if span["name"] == "vision")
    encoded = [span for span in spans if span["name"] == "text encode"]
    assert sum(span["args"]["phrases"] for span in encoded) >= 20
    assert {span["track"] for span in encoded} == {"text_0"}
    assert vision["track"] != "text_0"
    begin, end = vision["ts"], vision["ts"] + vision["dur"]
    assert all(begin < span["ts"] and span["ts"] + span["dur"] < end for span in encoded)
    assert {"text lookup"} == {span["name"] for span in read(tmp_path / "hits") if span["track"] == "text_0"}
