"""Values exactly at a limit, where an off-by-one or another rounding would change the result."""

import time

import numpy as np
import pytest

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.base.trace import NO_TRACE
from ovsdino_runtime.geometry.preprocess import fit_size
from ovsdino_runtime.pipelines.host_stages import put_background
from ovsdino_runtime.pipelines.pipeline import StageTimer
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.vocabulary import MAX_CLASSES, Vocabulary


def test_half_a_pixel_is_rounded_up():
    """335 px times 3.5 are 1172.5: Python's `round` would give the even 1172."""
    assert fit_size(335, 128, short_side=448, long_side=2048) == (1173, 448)
    assert fit_size(128, 335, short_side=448, long_side=2048) == (448, 1173)
    assert fit_size(337, 128, short_side=448, long_side=2048) == (1180, 448)  # 1179.5


def test_a_confidence_equal_to_the_threshold_is_no_background():
    confidence = np.array([[0.25, np.nextafter(np.float32(0.25), np.float32(0))]], np.float32)
    labels, _ = put_background(np.zeros((1, 2), np.uint16), confidence, 0.25)
    assert labels.tolist() == [[1, 0]]


def test_the_limit_on_classes_counts_all_entries():
    classes = tuple((str(number),) for number in range(MAX_CLASSES))
    assert len(Vocabulary(classes).entries) == MAX_CLASSES
    with pytest.raises(ClassesError, match=f"got {MAX_CLASSES + 1} classes"):
        Vocabulary(classes, background=True, background_classes=(("sky",),))


@pytest.mark.parametrize("length", [3, 5])
def test_a_cached_embedding_of_another_length_is_left_out(tmp_path, length):
    cache = TextCache(tmp_path / "text.sqlite3")
    cache.store("graph", {"cat": np.eye(1, length)[0], "dog": np.eye(1, 4)[0]})
    assert list(cache.lookup("graph", ["cat", "dog"], width=4)) == ["dog"]


def test_repeated_laps_of_a_stage_add_up():
    timer = StageTimer(NO_TRACE)
    for _ in range(2):
        with timer("vision"):
            time.sleep(0.02)
    with timer("merge"):
        pass
    assert list(timer.times) == ["vision", "merge"]
    assert timer.times["vision"] >= 40
