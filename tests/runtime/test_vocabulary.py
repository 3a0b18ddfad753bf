import json
from pathlib import Path

import pytest

import ovsdino_runtime
from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.text.vocabulary import (
    Vocabulary,
    load_templates,
    load_vocabulary,
    parse_classes,
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


def test_typed_classes():
    vocabulary = parse_classes(" cat ,car | automobile,  traffic   light")
    assert vocabulary.classes == (("cat",), ("car", "automobile"), ("traffic light",))
    assert vocabulary.names == ("cat", "car", "traffic light")
    assert not vocabulary.background


def test_a_sequence_holds_one_class_in_each_text():
    assert parse_classes(["a, b", "c|d"]).classes == (("a, b",), ("c", "d"))


def test_classes_in_a_file(tmp_path):
    file = tmp_path / "classes.txt"
    file.write_bytes("\ufeff# things\r\ncat\r\n\r\ncar|automobile\r\nsky, Bäume\r\n".encode())
    assert parse_classes(f"@{file}").classes == (("cat",), ("car", "automobile"), ("sky",), ("Bäume",))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no class is given; write some words"),
        (" , ", "no class is given"),
        ("cat,,grass", "class 2 has an empty name"),
        ("cat,", "class 2 has an empty name"),
        ("car||automobile", "class 1 has an empty name"),
        ("cat, \udcff", r"class 2 is not text: '\\udcff'; write it in UTF-8"),  # a byte of another encoding
        ("cat, dog, Cat", "class 3 has the name of class 1: 'Cat'"),
        ("car|auto, bus|auto", "'auto' is in class 'car' and again in 'bus'"),
        ("car|Car", "'Car' is in class 'car' and again in 'car'"),
        ("@nowhere.txt", r"nowhere\.txt: cannot be read: No such file"),
    ],
)
def test_classes_that_are_refused(text, message):
    with pytest.raises(ClassesError, match=message):
        parse_classes(text)


def test_files_that_are_refused(tmp_path):
    (tmp_path / "photo.txt").write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(ClassesError, match=r"photo\.txt: cannot be read: not a text file in UTF-8"):
        parse_classes(f"@{tmp_path / 'photo.txt'}")
    (tmp_path / "empty.txt").write_text("# nothing\n\n")
    with pytest.raises(ClassesError, match="no class is given"):
        parse_classes(f"@{tmp_path / 'empty.txt'}")


def test_the_background_is_label_0_and_its_name_is_taken():
    assert Vocabulary((("cat",),), background=True).names == ("background", "cat")
    with pytest.raises(ClassesError, match="class 2 has the name of class 0: 'Background'"):
        Vocabulary((("cat",), ("Background",)), background=True)
    assert parse_classes("background").names == ("background",)


def test_more_classes_than_labels_are_refused():
    with pytest.raises(ClassesError, match="got 65536 classes: expected 1 to 65535"):
        Vocabulary(tuple((str(i),) for i in range(65536)))


def test_the_packaged_vocabularies_are_those_of_the_benchmarks():
    assert vocabulary_names() == sorted(SIZES)
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
