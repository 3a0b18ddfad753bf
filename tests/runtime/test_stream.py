import itertools
import threading
import time

import numpy as np
import pytest

from ovsdino_runtime.base.errors import ClassesError, EngineError, OutputError
from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.stream import WAITING, Stream

WAIT_S = 120  # for what must happen; nobody waits that long where it does


@pytest.fixture
def segmenter(shared_bundle):
    return Segmenter.load(shared_bundle.path, threads=1)


def frame(index, *, live=False):
    """A picture whose one colour depends on its number."""
    photo = np.zeros((20, 30, 3), np.uint8)
    photo[..., index % 3] = 255
    return Frame(Source("photo", f"{index}.png"), photo, index=index, live=live)


def colours(results):
    """The one class of each result."""
    return [next(iter(result.segmentation.coverage())) for result in results]


def test_order_is_kept(segmenter):
    results = list(Stream(segmenter, map(frame, range(20)), classes="red, green, blue"))
    assert [result.frame.index for result in results] == list(range(20))
    assert colours(results) == ["red", "green", "blue"] * 6 + ["red", "green"]
    assert next(iter(results[0].segmentation.timings)) == "decode"


def test_it_reads_labels_and_writes_at_the_same_time(segmenter):
    """Each stage waits until the others have begun on other pictures: in turns, none would go on."""
    reading, writing = threading.Event(), threading.Event()

    def frames():
        yield frame(0)
        yield frame(1)
        assert writing.wait(WAIT_S)  # the third is read while the first is written
        reading.set()
        yield frame(2)

    def consume(result):
        writing.set()
        assert reading.wait(WAIT_S)
        assert threading.current_thread().name.startswith("write")
        return result

    results = Stream(segmenter, frames(), classes="red, green, blue", consume=consume)
    assert colours(results) == ["red", "green", "blue"]


def test_the_queue_is_bounded(segmenter):
    read = []

    def frames():
        for index in itertools.count():
            read.append(index)
            yield frame(index)

    stream = iter(Stream(segmenter, frames(), classes="red"))
    next(stream)
    time.sleep(0.3)
    assert len(read) <= 1 + WAITING + 1  # labelled, waiting, in the reader's hand
    stream.close()
    count = len(read)
    time.sleep(0.2)
    assert len(read) == count  # nobody reads on


def test_of_a_live_source_only_the_newest_waits(segmenter):
    ready, go = threading.Event(), threading.Event()

    def frames():
        yield frame(0, live=True)
        assert go.wait(WAIT_S)
        for index in range(1, 10):
            yield frame(index, live=True)
        ready.set()

    stream = Stream(segmenter, frames(), classes="red, green, blue")
    results = iter(stream)
    seen = [next(results).frame.index]
    go.set()
    assert ready.wait(WAIT_S)
    seen += [result.frame.index for result in results]
    assert seen == [0, 9]
    assert stream.dropped == 8


def test_classes_change_while_it_runs(segmenter):
    stream = Stream(segmenter, map(frame, itertools.repeat(0, 9)), classes="blue, green")
    results = iter(stream)
    assert next(results).segmentation.classes == ("blue", "green")
    stream.set_classes("red, black", background=0.25)
    second = next(results).segmentation
    assert second.classes == ("background", "red", "black")
    assert second.background == 0.25
    with pytest.raises(ClassesError, match="class 2 has the name"):
        stream.set_classes("red, red")
    assert next(results).segmentation.classes == ("background", "red", "black")
    results.close()


def test_stop_finishes_what_is_begun(segmenter):
    written = []
    stream = Stream(
        segmenter, map(frame, itertools.count()), classes="red", consume=lambda r: written.append(r) or r
    )
    seen = []
    for result in stream:
        seen.append(result)
        if len(seen) == 3:
            stream.stop()
    assert seen == written
    assert 3 <= len(seen) <= 3 + WAITING + 1


def test_a_reader_that_fails_ends_it_with_its_error(segmenter):
    def frames():
        yield frame(0)
        raise EngineError("the camera burns")

    results = iter(Stream(segmenter, frames(), classes="red"))
    next(results)
    with pytest.raises(EngineError, match="the camera burns"):
        next(results)


def test_a_writer_that_fails_ends_it_with_its_error(segmenter):
    def consume(_):
        raise OutputError("disk full")

    before = threading.active_count()
    with pytest.raises(OutputError, match="disk full"):
        list(Stream(segmenter, map(frame, itertools.count()), classes="red", consume=consume))
    deadline = time.monotonic() + WAIT_S
    while threading.active_count() > before + 1 and time.monotonic() < deadline:  # one encodes text
        time.sleep(0.01)
    assert threading.active_count() <= before + 1


def test_what_was_labelled_before_the_engine_failed_is_written(segmenter, monkeypatch):
    begun, failed = threading.Event(), threading.Event()
    written = []

    def consume(result):
        begun.set()
        assert failed.wait(WAIT_S)  # the others wait behind the first one
        written.append(result.frame.index)
        return result

    def label(photo, *rest, **options):
        if photo[0, 0, 1]:  # picture 1, 4, ... is green
            assert begun.wait(WAIT_S)
            failing.start()
            raise EngineError("the GPU burns")
        return real(photo, *rest, **options)

    failing = threading.Timer(0.2, failed.set)  # by then the stream is at its end
    real = segmenter.pipeline.label
    monkeypatch.setattr(segmenter.pipeline, "label", label)
    frames = [frame(0), frame(2), frame(3), frame(4)]
    with pytest.raises(EngineError, match="the GPU burns"):
        list(Stream(segmenter, frames, classes="red, blue", consume=consume))
    assert written == [0, 2, 3]


def test_wrong_classes_are_refused_at_once(segmenter):
    with pytest.raises(ClassesError, match="no class is given"):
        Stream(segmenter, [], classes="")
