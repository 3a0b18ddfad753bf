"""What nano's recipe makes masks of: one salient object, and the words of captions."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

RECIPE = Path(__file__).parents[2] / "recipes/nano"
NAMES = {"dog": "dog", "hot dog": "hot dog", "couch": "sofa", "sofa": "sofa", "bus": "bus", "man": "person"}


def load(name: str) -> ModuleType:
    pytest.importorskip("onnxruntime")
    spec = importlib.util.spec_from_file_location(name, RECIPE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_a_noun_counts_where_two_captions_name_it_by_any_name():
    named_nouns = load("caption_masks").named_nouns
    assert named_nouns(["A man, on a couch.", "Sofa with a man"], NAMES) == ["person", "sofa"]
    assert named_nouns(["two hot dogs", "A HOT DOG!"], NAMES) == ["hot dog"]
    assert named_nouns(["dogs and a hot dog", "a dog"], NAMES) == ["dog"]
    assert named_nouns(["three buses", "a bus"], NAMES) == ["bus"]
    assert named_nouns(["a dogma", "a dog"], NAMES) == []


def test_surroundings_must_be_surer_than_what_the_captions_say():
    choose = load("caption_masks").choose
    winners = np.repeat([[0, 1, 0, 1]], 2, axis=0)
    confidence = np.array([[0.4, 0.4, 0.2, 0.6]] * 2, np.float32)
    regions = choose(winners, confidence, words=["cat", "sky"], named=1)
    assert np.array_equal(regions["cat"], [[True, False, False, False]] * 2)
    assert np.array_equal(regions["sky"], [[False, False, False, True]] * 2)
    assert choose(winners, confidence * 0, words=["cat", "sky"], named=1) == {}


def test_the_words_of_sets_are_their_shared_nouns_and_names(tmp_path):
    (tmp_path / "names.txt").write_text("background\ncouch\ncat\nthing\n")
    file = {"nouns": {"couch": "sofa", "thing": None}, "names": {"cat": ["cat", "kitty"]}}
    (tmp_path / "sets.json").write_text(json.dumps(file))
    names = load("caption_masks").read_names(tmp_path / "sets.json", [tmp_path])
    assert {name: noun for name, noun in names.items() if noun != "person"} == {
        "couch": "sofa", "sofa": "sofa", "cat": "cat", "kitty": "cat",
    }  # fmt: skip


def test_a_salient_object_is_sure_inside_absent_far_away_and_unsure_between():
    object_labels = load("salient_masks").object_labels
    heat = np.array([[0.9, 0.3, 0.05, 0.0]], np.float32)
    assert object_labels(heat, 7).tolist() == [[7, 255, 0, 0]]
    assert object_labels(np.full((4, 4), 0.9, np.float32), 7) is None, "it fills the photo"
    assert object_labels(np.full((4, 4), 0.2, np.float32), 7) is None, "nothing is salient"


def test_the_sets_file_knows_every_noun_that_it_gives_parts_to():
    from ovsdino.masks.label_sets import read_sets

    file = read_sets(RECIPE / "sets.json")
    assert not [noun for noun, parts in file.parts.items() if noun in parts]
    assert not set(file.distractors) & {noun for noun in file.nouns.values() if noun}
    assert all(noun not in file.nouns for noun in file.names), "names are of the shared nouns"
