"""Names of nouns, and which of them guard each other."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovsdino.masks.store.shards import write_beside
from ovsdino.training.data.synonyms import SynonymError, Synonyms, read_distractors, read_synonyms

NOUNS = st.sampled_from(list("abcdefgh"))
TREES = st.builds(
    Synonyms,
    st.dictionaries(NOUNS, st.lists(NOUNS, min_size=1, max_size=3).map(tuple)),
    st.dictionaries(NOUNS, NOUNS),
)


def test_a_shared_name_relates_and_an_unknown_noun_does_not():
    synonyms = Synonyms({"couch": ("couch", "sofa"), "settee": ("settee", "Sofa"), "bed": ("bed",)})
    related = synonyms.related(["couch", "settee", "bed", "sofa"])
    assert related == {
        "couch": {"settee", "sofa"},
        "settee": {"couch", "sofa"},
        "sofa": {"couch", "settee"},
        "bed": frozenset(),
    }


def test_wider_nouns_relate_at_any_height_but_not_siblings():
    synonyms = Synonyms({}, {"goldfinch": "finch", "finch": "bird", "robin": "bird"})
    related = synonyms.related(["goldfinch", "bird", "robin"])  # finch itself is not asked for
    assert related["goldfinch"] == {"bird"}
    assert related["robin"] == {"bird"}
    assert related["bird"] == {"goldfinch", "robin"}


def test_a_wider_noun_is_found_by_any_of_its_names():
    synonyms = Synonyms({"automobile": ("automobile", "car")}, {"taxi": "car"})
    assert synonyms.related(["taxi", "automobile"])["taxi"] == {"automobile"}


def test_without_files_a_compound_is_held_by_its_last_word():
    related = Synonyms().related(["racket", "tennis racket", "tennis", "light", "traffic light"])
    assert related["tennis racket"] == {"racket"}
    assert related["light"] == {"traffic light"}
    assert related["tennis"] == frozenset()
    known = Synonyms({"hot dog": ("hot dog",)})
    assert not known.related(["hot dog", "dog"])["dog"], "files know better"


def test_parts_may_be_right_where_their_wholes_are_but_not_where_other_parts_are():
    synonyms = Synonyms(parts={"window": ("building", "wall"), "door": ("building",)})
    found = synonyms.overlapping(["window", "door", "building", "sky"])
    assert found == {
        "window": {"building"},
        "door": {"building"},
        "building": {"window", "door"},
        "sky": frozenset(),
    }
    assert not synonyms.related(["window", "building"])["window"], "a list of labels may tell them apart"


@given(TREES, st.lists(NOUNS))
def test_relations_are_mutual_and_end_in_circles(synonyms, nouns):
    related = synonyms.related(nouns)
    assert related.keys() == set(nouns)
    for noun, others in related.items():
        assert noun not in others
        assert all(noun in related[other] for other in others)


def test_files_come_back_as_they_were(tmp_path):
    synonyms = Synonyms({"car": ("car", "Wagen"), "naïve art": ("naïve art",)}, {"taxi": "car"})
    write_beside(tmp_path, "synonyms.json", synonyms.names)
    write_beside(tmp_path, "wider.json", synonyms.wider)
    assert read_synonyms(tmp_path) == synonyms
    assert read_distractors(tmp_path) == ()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["synonyms.json", "wider.json"]
    assert read_synonyms(tmp_path / "elsewhere") == Synonyms()
    write_beside(tmp_path, "parts.json", {"wheel": ["car"]})
    write_beside(tmp_path, "distractors.json", ["spoon", "fork", "spoon"])
    assert read_synonyms(tmp_path).parts == {"wheel": ("car",)}
    assert read_distractors(tmp_path) == ("spoon", "fork")


@pytest.mark.parametrize("text", ['{"spoon": 1}', '["spoon", 3]', "["])
def test_a_broken_list_of_distractors_is_named(tmp_path, text):
    (tmp_path / "distractors.json").write_text(text)
    with pytest.raises(SynonymError, match=r"distractors\.json"):
        read_distractors(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("synonyms.json", '{"car": "automobile"}', "'car': got 'automobile', expected a list of names"),
        ("synonyms.json", '{"car": []}', "expected a list of names"),
        ("parts.json", '{"wheel": "car"}', "'wheel': got 'car', expected a list of names"),
        ("synonyms.json", "{", r"synonyms.json: damaged \("),
        ("wider.json", '["car"]', "got list, expected an object"),
        ("wider.json", '{"taxi": ["car"]}', "expected the wider noun"),
    ],
)
def test_broken_files_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(SynonymError, match=message):
        read_synonyms(tmp_path)
