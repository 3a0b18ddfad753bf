"""The protocols as the papers state them, and the refusal of those that cannot be run to the letter."""

import pytest

from ovsdino_benchmarks.datasets.benchmark_list import benchmarks
from ovsdino_benchmarks.datasets.protocol import (
    PROTOCOLS,
    ProtocolError,
    find_protocol,
    own_protocol,
    templates_of,
)
from ovsdino_benchmarks.model_variants.models import open_bundle
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.text.vocabulary import load_vocabulary


def test_ovsdinos_protocol_is_that_of_the_paper():
    p = PROTOCOLS["ovsdino"]
    assert (p.short_side, p.long_side, p.window, p.stride) == (448, 2048, 448, 224)
    assert (p.interpolation, p.antialias, p.merge) == ("bilinear", False, "logits")


def test_eighty_templates(tiny):
    assert len(templates_of(PROTOCOLS["ovsdino"], load_bundle(tiny).manifest)) == 80
    assert templates_of(own_protocol(load_bundle(tiny).manifest), load_bundle(tiny).manifest) == ("a {}",)


@pytest.mark.parametrize("name", list(benchmarks()))
def test_a_benchmark_has_as_many_classes_as_its_labels(name):
    benchmark = benchmarks()[name]
    labels = range(len(load_vocabulary(benchmark.vocabulary).names))
    for layout in benchmark.layouts:
        assert set(layout.values.values()) - {-1} == set(labels)


def test_background_is_where_the_benchmark_has_one():
    with_background = {
        name for name, one in benchmarks().items() if load_vocabulary(one.vocabulary).background
    }
    assert with_background == {"voc21", "context60", "coco-object"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ovsdino", "cuts windows of 448 px where the model reads 32 px"),
        ("dinov3seg", "averages local-global"),
        ("dinotxt", "resizes the short side by bicubic interpolation and averages probabilities"),
    ],
)
def test_a_protocol_that_a_model_cannot_follow_is_refused(tiny, name, why):
    with pytest.raises(ProtocolError, match=f"protocol {name} .*{why}.*--protocol model can be run"):
        open_bundle(tiny, find_protocol(name))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(ProtocolError, match="unknown protocol 'mine': expected one of ovsdino, dinov3seg"):
        find_protocol("mine")
