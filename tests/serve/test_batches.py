"""Requests that share runs of the vision engine get what they would have got alone."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from click.testing import CliRunner

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.serve.batches import SharedBatches, share_batches
from ovsdino_runtime.serve.cli import serve
from ovsdino_runtime.serve.service import ServiceOptions
from tests.serve.running import ask, png, read_png, running


class Doubling:
    """Doubles what it gets; each run waits to be let go, and is taken down."""

    description = "doubling"

    def __init__(self):
        self.begun, self.go, self.lengths = threading.Semaphore(0), threading.Event(), []

    def run(self, inputs):
        self.lengths.append(len(inputs["pixels"]))
        self.begun.release()
        assert self.go.wait(20)
        if (inputs["pixels"] == -1).any():
            raise EngineError("it does not like this")
        return {"features": 2 * inputs["pixels"]}


def pixels(count, value, side=4):
    return {"pixels": np.full((count, 3, side, side), value, np.float32)}


def submit(pool, engine, *orders):
    """Let each order be in the row before the next one comes."""
    futures = []
    for order in orders:
        futures.append(pool.submit(engine.run, order))
        time.sleep(0.05)
    return futures


def test_those_who_come_while_it_is_busy_are_run_together_in_their_order():
    inner, saw = Doubling(), []
    engine = SharedBatches(inner, 4, saw.append)
    with ThreadPoolExecutor(8) as pool:
        (first,) = submit(pool, engine, pixels(1, 1.0))
        assert inner.begun.acquire(timeout=10)
        sizes = [(2, 2.0, 4), (1, 3.0, 4), (2, 4.0, 4), (1, 5.0, 8), (6, 6.0, 8)]
        rest = submit(pool, engine, *(pixels(*size) for size in sizes))
        inner.go.set()
        assert (first.result()["features"] == 2).all()
        for (count, value, side), future in zip(sizes, rest, strict=True):
            features = future.result()["features"]
            assert features.shape == (count, 3, side, side)
            assert (features == 2 * value).all()
    # 2 + 1 leave no room for 2 more; another size is another run; 6 are more than may be, and go alone
    assert inner.lengths == saw == [1, 3, 2, 1, 6]


def test_a_failure_is_told_to_all_whom_it_ran_for_and_to_nobody_else():
    inner = Doubling()
    engine = SharedBatches(inner, 2)
    with ThreadPoolExecutor(8) as pool:
        (first,) = submit(pool, engine, pixels(1, 1.0))
        assert inner.begun.acquire(timeout=10)
        spoilt, beside, after = submit(pool, engine, pixels(1, -1.0), pixels(1, 2.0), pixels(1, 3.0))
        inner.go.set()
        assert (first.result()["features"] == 2).all()
        for future in (spoilt, beside):
            with pytest.raises(EngineError, match="it does not like this"):
                future.result()
        assert (after.result()["features"] == 6).all()


def test_a_server_that_batches_gives_the_same_labels(segmenter, reference):
    random = np.random.default_rng(0)
    photos = [
        random.integers(0, 256, (64, width, 3), dtype=np.uint8) for width in (64, 100, 150, 64, 80, 120)
    ]
    options = ServiceOptions(workers=4, batch=8)
    with running(segmenter, options) as address, ThreadPoolExecutor(6) as clients:
        answers = list(
            clients.map(lambda photo: ask(address, png(photo), classes="red, green, blue"), photos)
        )
        counted = requests.get(f"{address}/metrics", timeout=9).text
    for photo, answer in zip(photos, answers, strict=True):
        labels, _ = read_png(answer)
        np.testing.assert_array_equal(labels, reference(photo, "red, green, blue").labels)
    windows = sum(len(reference.pipeline.prepare(photo).windows) for photo in photos)
    assert f"ovsdino_batch_windows_sum {windows}.0" in counted


def test_one_worker_has_nothing_to_share():
    done = CliRunner().invoke(serve, ["--batch", "4"])
    assert done.exit_code == 2
    assert "--batch 4: one worker has one photo's windows; add --workers 4" in done.output


def test_a_device_that_sees_one_photo_at_a_time_is_refused():
    with pytest.raises(EngineError, match="only on device 'cpu'; leave out --batch"):
        share_batches(object(), 8, lambda _: None)
