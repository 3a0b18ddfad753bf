import json
from pathlib import Path

import pytest

import ovsdino_runtime
from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.text.vocabulary import (
    Vocabulary,
    check_templates,
    load_templates,
    load_vocabulary,
    vocabulary_names,
)

DATA = Path(ovsdino_runtime.__file__).parent / "data"
SIZES = {
    "ade150": 150,
    "ade847": 847,
    "camvid11": 11,
    "cityscapes19": 19,
    "coco_object81": 81,
    "coco_stuff171": 171,
    "context459": 459,
    "context59": 59,
    "context60": 60,
    "surroundings": 28,
    "voc20": 20,
    "voc21": 21,
}


def test_the_background_is_label_0_and_its_name_is_taken():
    assert Vocabulary((("cat",),), background=True).names == ("background", "cat")
    with pytest.raises(ClassesError, match="class 2 has the name of class 0: 'Background'"):
        Vocabulary((("cat",), ("Background",)), background=True)


def test_more_classes_than_labels_are_refused():
    with pytest.raises(ClassesError, match="got 65536 classes: expected 1 to 65535"):
        Vocabulary(tuple((str(i),) for i in range(65536)))


def test_the_packaged_vocabularies_are_those_of_the_benchmarks():
    assert vocabulary_names() == tuple(sorted(SIZES))
    for name, size in SIZES.items():
        vocabulary = load_vocabulary(name)
        assert vocabulary.name == name
        assert vocabulary.source
        assert len(vocabulary.names) == size
        assert vocabulary.background == (name in ("voc21", "context60", "coco_object81"))


@pytest.mark.parametrize("name", SIZES)
def test_packaged_words_are_clean(name):
    for words in load_vocabulary(name).classes:
        assert len(set(words)) == len(words), words
        for word in words:
            assert word == word.strip()
            assert not set(word) & set(",_{}@#"), word


@pytest.mark.parametrize(
    ("name", "index", "expected"),
    [
        ("voc21", 16, "potted plant"),
        ("voc20", 19, "tv monitor"),
        ("context60", 1, "aeroplane"),
        ("cityscapes19", 8, "vegetation"),
        ("ade150", 0, "wall"),
        ("ade150", 149, "flag"),
        ("coco_object81", 80, "toothbrush"),
        ("coco_stuff171", 106, "wood floor"),
        ("coco_stuff171", 170, "wood"),
        ("context459", 2, "air conditioner"),
        ("context459", 458, "wool"),
        ("ade847", 0, "wall"),
        ("ade847", 846, "adding machine"),
        ("camvid11", 4, "pavement"),
    ],
)
def test_labels_are_the_benchmarks(name, index, expected):
    assert load_vocabulary(name).names[index] == expected


def test_an_unknown_vocabulary_lists_the_known_ones():
    with pytest.raises(ClassesError, match="unknown vocabulary 'ade': expected one of ade150, ade847"):
        load_vocabulary("ade")


def test_templates(tmp_path):
    assert load_templates("simple") == ("a photo of a {}.",)
    assert len(load_templates("imagenet80")) == 80
    assert len(load_templates("imagenet7")) == 7
    assert load_templates("a {} in the snow") == ("a {} in the snow",)
    (tmp_path / "mine.txt").write_text("a {}\n\n# no\nthe {}\n")
    assert load_templates(f"@{tmp_path / 'mine.txt'}") == ("a {}", "the {}")
    for templates in json.loads((DATA / "templates.json").read_text()).values():
        assert all(template.count("{}") == 1 for template in templates)


def test_templates_that_are_refused(tmp_path):
    with pytest.raises(ClassesError, match="unknown templates 'best': expected one of imagenet80"):
        load_templates("best")
    with pytest.raises(ClassesError, match=r"expected \{\} once"):
        load_templates("{} and {}")
    (tmp_path / "mine.txt").write_text("a cat\n")
    with pytest.raises(ClassesError, match=r"template 'a cat': expected \{\} once"):
        load_templates(f"@{tmp_path / 'mine.txt'}")
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ClassesError, match="no templates in it"):
        load_templates(f"@{tmp_path / 'mine.txt'}")


def test_templates_in_python():
    assert check_templates("a {} in the snow") == ("a {} in the snow",)
    assert check_templates("simple") == ("a photo of a {}.",)
    assert check_templates(["a {}", "the {}"]) == ("a {}", "the {}")


@pytest.mark.parametrize(
    ("templates", "message"),
    [
        ("a cat", r"unknown templates 'a cat': .* or a phrase with \{\}"),
        (["a cat"], r"template 'a cat': expected \{\} once"),
        (["a {}", 3], "template 3: expected"),
        ([], r"templates are \[\]: expected a list"),
        ({"a {}"}, "templates are {'a {}'}: expected a list"),
    ],
)
def test_templates_that_python_may_not_give(templates, message):
    with pytest.raises(ClassesError, match=message):
        check_templates(templates)
