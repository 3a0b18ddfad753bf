from dataclasses import dataclass
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ovsdino_runtime.base import strict_json


@dataclass(frozen=True)
class Leaf:
    number: int
    share: float
    kind: Literal["a", "b"]


@dataclass(frozen=True)
class Tree:
    name: str
    leaves: tuple[Leaf, ...]
    pair: tuple[int, str]
    by_name: dict[str, Leaf]
    shape: tuple[int | str, ...]
    deep: bool
    anything: dict[str, object]
    maybe: str | None


leaves = st.builds(
    Leaf, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from(["a", "b"])
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
trees = st.builds(
    Tree,
    st.text(),
    st.lists(leaves, max_size=3).map(tuple),
    st.tuples(st.integers(), st.text()),
    st.dictionaries(st.text(), leaves, max_size=3),
    st.lists(st.integers() | st.text(), max_size=4).map(tuple),
    st.booleans(),
    st.dictionaries(st.text(), anything, max_size=3),
    st.none() | st.text(),
)
LEAF = {"number": 1, "share": 0.5, "kind": "a"}


@settings(deadline=None)
@given(trees)
def test_round_trip(tree):
    assert strict_json.parse(Tree, strict_json.loads(strict_json.dumps(tree))) == tree


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"number": True}, "number: expected int, got true"),
        ({"number": 1.0}, "number: expected int, got 1.0"),
        ({"number": None}, "number: expected int, got null"),
        ({"share": "x" * 99}, r'share: expected float, got "x{56}\.\.\.'),
        ({"kind": "c"}, "kind: expected .*'a', 'b'.*, got \"c\""),
    ],
)
def test_a_value_of_another_type_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        strict_json.parse(Leaf, LEAF | change)


def test_the_path_of_a_bad_value_is_given():
    tree = {"name": "", "leaves": [LEAF, LEAF | {"share": []}], "pair": [1, "b"], "by_name": {}, "shape": []}
    tree |= {"deep": False, "anything": {}, "maybe": None}
    with pytest.raises(ValueError, match=r"leaves\[1\]\.share: expected float, got \[\]"):
        strict_json.parse(Tree, tree)
    with pytest.raises(ValueError, match="pair: expected 2 values, got 1"):
        strict_json.parse(Tree, tree | {"leaves": [], "pair": [1]})
    with pytest.raises(ValueError, match=r"shape\[0\]: expected int or str, got 1.5"):
        strict_json.parse(Tree, tree | {"leaves": [], "shape": [1.5]})


def test_a_whole_number_may_stand_for_a_float():
    assert strict_json.parse(Leaf, LEAF | {"share": 1}).share == 1.0


def test_only_dataclasses_are_written():
    with pytest.raises(TypeError, match="expected a dataclass instance"):
        strict_json.dumps({"a": 1})


@dataclass(frozen=True)
class Part:
    side: int


@dataclass(frozen=True)
class Newer:
    name: str
    part: Part | None = None


def test_a_part_that_older_files_do_not_have_may_be_left_out():
    assert strict_json.parse(Newer, {"name": "old"}) == Newer("old")
    assert strict_json.parse(Newer, {"name": "old", "part": None}) == Newer("old")
    newer = Newer("new", Part(3))
    assert strict_json.parse(Newer, strict_json.loads(strict_json.dumps(newer))) == newer


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "missing key name"),
        ({"name": "a", "parts": None}, "unknown key parts"),
        ({"name": "a", "part": {"sides": 3}}, "part: missing key side"),
        ({"name": "a", "part": {"side": "3"}}, r'part\.side: expected int, got "3"'),
        ({"name": "a", "part": 3}, "part: expected an object, got 3"),
    ],
)
def test_an_optional_part_is_as_strict_as_any(raw, message):
    with pytest.raises(ValueError, match=message):
        strict_json.parse(Newer, raw)
