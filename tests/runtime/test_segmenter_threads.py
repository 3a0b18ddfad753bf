"""One segmenter and several threads, a closed one, and one in a forked process."""

import os
import threading
import warnings

import numpy as np
import pytest

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.segmenter import Segmenter

THREADS = 8


@pytest.fixture
def segmenter(shared_bundle):
    return Segmenter.load(shared_bundle.path, threads=1)


def photo(seed):
    return np.random.default_rng(seed).integers(0, 256, (70, 90, 3), dtype=np.uint8)


def test_threads_with_words_of_their_own_give_what_one_thread_gives(segmenter):
    """More word lists than are kept, and each thread its own; every answer is that of a single thread."""
    colours = ["red", "green", "blue", "yellow", "white", "black"]
    words = [[*colours[i % 6 :], f"word{i}", *(f"word{80 * i + n}" for n in range(1, i))] for i in range(12)]
    cases = [(seed, classes) for classes in words for seed in range(2)]
    expected = [segmenter(photo(seed), classes) for seed, classes in cases]
    wrong, started = [], threading.Barrier(THREADS)

    def work(first):
        started.wait()
        for turn in range(len(cases)):
            index = (turn + 3 * first) % len(cases)
            seed, classes = cases[index]
            actual = segmenter(photo(seed), classes)
            same = np.array_equal(actual.labels, expected[index].labels)
            if not (same and actual.classes == expected[index].classes):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_closed_segmenter_says_so(segmenter):
    seen = segmenter.encode(photo(0))
    segmenter(photo(0), "red, blue")
    segmenter.close()
    segmenter.close()
    for call in (
        lambda: segmenter(photo(0), "red, blue"),
        lambda: segmenter(photo(0), "red, green"),
        lambda: segmenter.segment(seen, "red, blue"),
        lambda: segmenter.encode(photo(0)),
    ):
        with pytest.raises(EngineError, match="the model is closed; load it again"):
            call()


def test_closing_in_flight_gives_right_labels_or_a_clear_error(shared_bundle):
    with Segmenter.load(shared_bundle.path, threads=1) as first:
        expected = first(photo(1), "red, blue").labels
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    results, errors, running = [], [], threading.Event()

    def work():
        while not errors:
            try:
                results.append(segmenter(photo(1), "red, blue").labels)
            except EngineError as error:
                errors.append(str(error))
            running.set()

    thread = threading.Thread(target=work)
    thread.start()
    running.wait()
    segmenter.close()
    thread.join()
    assert errors == ["the model is closed; load it again"]
    assert results
    assert all(np.array_equal(labels, expected) for labels in results)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_labels_on_the_processor_and_does_not_hang(segmenter):
    expected = segmenter(photo(0), "red, blue").labels
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 and later: threads and fork
        child = os.fork()
    if child == 0:
        try:
            same = np.array_equal(segmenter(photo(0), "red, blue").labels, expected)
            os.write(write, b"same" if same else b"other")
        except EngineError as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    assert os.waitpid(child, 0)[1] == 0
    said = os.read(read, 1000).decode()
    os.close(read)
    assert said == "same"
    segmenter(photo(0), "red, blue")  # the parent goes on
