"""Classes that a photo nowhere holds are left out: against a loop, and against the shorter list itself."""

import numpy as np
import pytest

from ovsdino_runtime.base.errors import OptionError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.geometry import presence
from ovsdino_runtime.geometry.presence import present_classes
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import read_classes


def unit(shape: tuple[int, ...], seed: int, axis: int) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=axis, keepdims=True)


@pytest.mark.parametrize("portion", [1, 2, 512])
def test_a_class_is_present_where_one_node_is_sure(monkeypatch, portion):
    monkeypatch.setattr(presence, "CLASSES_AT_ONCE", portion)
    features, text = unit((3, 6, 4, 5), 0, 1), unit((9, 6), 1, 1)
    best = [
        max(
            float(features[window, :, row, column] @ word)
            for window in range(3)
            for row in range(4)
            for column in range(5)
        )
        for word in text
    ]
    threshold = float(np.sort(best)[4]) - 1e-6
    expected = [index for index, value in enumerate(best) if value >= threshold]
    assert len(expected) == 5
    assert present_classes(features, text, threshold).tolist() == expected
    assert present_classes(features, text, 2.0).tolist() == [int(np.argmax(best))]
    assert present_classes(features, text, -2.0).tolist() == list(range(9))


@pytest.mark.parametrize("count", [3, 1])
def test_labels_are_those_of_the_list_without_the_absent(shared_bundle, flag, count):
    words = ["black", "red", "yellow", "green", "blue"]
    plain = Segmenter.load(shared_bundle.path, threads=1)
    text = plain.encode_text(read_classes(words))
    cosines = np.einsum("bdhw,nd->nbhw", plain.encode(flag).features, text).max(axis=(1, 2, 3))
    best = 1 / (1 + np.exp(-(shared_bundle.manifest.head.scale * cosines + shared_bundle.manifest.head.bias)))
    threshold = float(np.sort(best)[1:3].mean()) if count == 3 else 1.0
    kept = [word for word, value in zip(words, best, strict=True) if value >= threshold]
    kept = kept or [words[int(best.argmax())]]
    assert len(kept) == count
    chosen = Segmenter.load(shared_bundle.path, threads=1, presence=threshold)
    found, expected = chosen(flag, words), plain(flag, kept, background=0)
    assert found.classes == tuple(words)
    np.testing.assert_array_equal(np.array(words)[found.labels], np.array(["", *kept])[expected.labels])
    assert found.background is None
    for segment in (chosen, plain):  # beside a background every class stays
        np.testing.assert_array_equal(
            segment(flag, words, background=0.4).labels, plain(flag, words, background=0.4).labels
        )


@pytest.mark.parametrize("value", [-0.1, 1.5, True, "0.2"])
def test_no_other_presence(value):
    with pytest.raises(OptionError, match=r"presence must be a confidence in 0\.\.1, got"):
        RuntimeOptions(presence=value)
