"""The protocols as the papers state them, and the refusal of those that cannot be run to the letter."""

from dataclasses import replace

import numpy as np
import pytest

from ovsdino_benchmarks.datasets.benchmark_list import benchmarks
from ovsdino_benchmarks.datasets.official_names import official_names, with_official_names
from ovsdino_benchmarks.datasets.protocol import (
    PROTOCOLS,
    ProtocolError,
    find_protocol,
    for_benchmark,
    own_protocol,
    templates_of,
    words_of,
)
from ovsdino_benchmarks.model_variants.models import OfficialText, open_bundle, open_text
from ovsdino_export.clip import clip_tokenizer
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.files.labeled_folder import DataError
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary


def test_ovsdinos_protocol_is_that_of_the_paper():
    p = PROTOCOLS["ovsdino"]
    assert (p.short_side, p.long_side, p.window, p.stride) == (448, 2048, 448, 224)
    assert (p.interpolation, p.antialias, p.average) == ("bilinear", False, "logits")
    assert (p.words, p.align_corners, p.templates) == ("official", False, "imagenet80")


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
        name for name, each in benchmarks().items() if load_vocabulary(each.vocabulary).background
    }
    assert with_background == {"voc21", "context60", "coco-object"}


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("ovsdino", "cuts windows of 448 px where the model reads 32 px"),
        ("dinov3seg", "averages features"),
        ("dinotxt", "resizes the short side by bicubic interpolation and averages softmax probabilities"),
    ],
)
def test_a_protocol_that_a_model_cannot_follow_is_refused(tiny, name, why):
    with pytest.raises(ProtocolError, match=f"protocol {name} .*{why}.*--protocol model can be run"):
        open_bundle(tiny, find_protocol(name))


def test_an_unknown_protocol_is_refused():
    with pytest.raises(
        ProtocolError, match="unknown protocol 'mine': expected one of ovsdino, talk2dino, dinov3seg"
    ):
        find_protocol("mine")


# How far our lists, made for people to read, are from the official ones.
DIFFERENT = {"voc21": 3, "voc20": 3, "pas-20": 3, "context60": 2, "context59": 2, "pc-59": 3}
DIFFERENT |= {"coco-stuff": 31, "ade20k": 1, "a-150": 1, "a-847": 11, "pc-459": 96}


@pytest.mark.parametrize("name", list(benchmarks()))
def test_the_papers_protocols_take_the_official_names(name):
    benchmark = benchmarks()[name]
    ours = load_vocabulary(benchmark.vocabulary)
    taken = words_of(benchmark.protocol, ours, benchmark.official)
    assert taken.background == ours.background
    listed = official_names()[benchmark.official].names
    assert [words[0].strip() for words in taken.classes] == [entry.split(", ")[0] for entry in listed]
    different = sum(a[0] != b[0].strip() for a, b in zip(ours.classes, taken.classes, strict=True))
    assert different == DIFFERENT.get(name, 0)
    assert words_of(own_like(benchmark.protocol), ours, benchmark.official) == ours


def own_like(protocol):
    return replace(protocol, words="all")


def test_names_that_occur_twice_are_told_apart_and_read_alike():
    vocabulary = with_official_names(load_vocabulary("ade847"), "ade847")
    bags = [words[0] for words in vocabulary.classes if words[0].strip() == "bag"]
    assert bags == ["bag", "bag ", "bag  "]
    tokenizer = clip_tokenizer()
    prompts = [f"A photo of a {bag} in the scene" for bag in bags]
    assert len({tuple(tokenizer.encode(prompt).ids) for prompt in prompts}) == 1


def test_classes_of_one_name_are_encoded_once_and_counted_each(tiny):
    twice = Vocabulary((("red",), ("green",), ("red ",)))
    rows = OfficialText(open_text(load_bundle(tiny), None)).encode_classes(twice, ("a {}",))
    np.testing.assert_array_equal(rows[0], rows[2])
    assert np.abs(rows[0] - rows[1]).max() > 0.1


def test_official_names_fit_the_labels():
    with pytest.raises(DataError, match="official list voc20 has 20 classes, the labels have 150"):
        with_official_names(load_vocabulary("ade150"), "voc20")


def test_talk2dinos_protocol_is_that_of_its_repository():
    p = PROTOCOLS["talk2dino"]
    assert (p.short_side, p.long_side, p.window, p.stride) == (448, 2048, 448, 224)
    assert (p.average, p.probability, p.align_corners) == ("probabilities", "sigmoid", True)
    assert (p.templates, p.words, p.pamr) == ("imagenet7", "official", 0)
    cleaned = {name for name in benchmarks() if for_benchmark(p, name).background_cleaning == 0.2}
    assert cleaned == {"voc21", "coco-object"}
    assert all(for_benchmark(PROTOCOLS["ovsdino"], name) == PROTOCOLS["ovsdino"] for name in benchmarks())


def test_cleaning_takes_the_torch_form(tiny):
    protocol = replace(own_protocol(load_bundle(tiny).manifest), background_cleaning=0.2)
    with pytest.raises(ProtocolError, match="which take the torch form of a Talk2DINO, which tiny cannot"):
        open_bundle(tiny, protocol)


def test_every_protocol_names_where_it_comes_from():
    for p in PROTOCOLS.values():
        assert "arXiv" in p.source or "/" in p.source
        assert p.describe().startswith(f"{p.name}: ")
