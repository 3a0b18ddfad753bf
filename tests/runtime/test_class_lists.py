"""Class lists in every form: what is read, and what is refused by name."""

import json
import logging

import pytest

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.text.class_lists import (
    check_background,
    choose_classes,
    parse_background,
    read_background_classes,
    read_classes,
)
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary, vocabulary_names, write_list

CAT_CAR_SKY = (("cat",), ("car", "automobile"), ("sky",))


def write(tmp_path, data, name="classes.txt"):
    file = tmp_path / name
    file.write_bytes(data if isinstance(data, bytes) else data.encode())
    return f"@{file}"


@pytest.mark.parametrize(
    "classes",
    [
        "cat, car|automobile, sky",
        " cat ,car | automobile,  sky",
        "# these\ncat, car|automobile\n\nsky # above\n",
        '["cat", "car|automobile", "sky"]',
        '["cat", ["car", "automobile"], "sky"]',
        '{"cat": [], "car": "automobile", "sky": null}',
        ["cat", "car|automobile", "sky"],
        ("cat", ("car", "automobile"), "sky"),
        {"cat": (), "car": ["automobile"], "sky": None},
        {"cat": [], "car|automobile": [], "sky": []},
        Vocabulary(CAT_CAR_SKY),
    ],
)
def test_forms_of_one_list(classes):
    vocabulary = read_classes(classes)
    assert vocabulary.classes == CAT_CAR_SKY
    assert not vocabulary.background


LINES = "cat\ncar|automobile\nsky\n"


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("plain.txt", LINES.encode()),
        ("comments.txt", b"# things\n\ncat  # a pet\ncar|automobile\n   # no\nsky\n"),
        ("windows.txt", LINES.replace("\n", "\r\n").encode("utf-8-sig")),
        ("mac.txt", LINES.replace("\n", "\r").encode()),
        ("no-end.txt", LINES.strip().encode()),
        ("utf16.txt", LINES.encode("utf-16")),
        ("utf16-without-mark.txt", LINES.encode("utf-16-le")),
        ("utf16-big.txt", LINES.encode("utf-16-be")),
        ("list.json", b'["cat", "car|automobile", "sky"]'),
        ("json.txt", b'\xef\xbb\xbf["cat", ["car", "automobile"], "sky"]'),
        ("synonyms.json", b'{"cat": [], "car": ["automobile"], "sky": []}'),
        ("list.yaml", b"# mine\n- cat\n- 'car|automobile'\n- \"sky\"\n"),
    ],
)
def test_files_of_one_list(tmp_path, name, data):
    assert read_classes(write(tmp_path, data, name)).classes == CAT_CAR_SKY


def test_a_comma_is_part_of_a_name_in_a_file_and_in_a_list(tmp_path, caplog):
    file = write(tmp_path, "road, route\ncar, auto\n")
    with caplog.at_level(logging.WARNING):
        assert read_classes(file).names == ("road, route", "car, auto")
    assert "a comma is part of a name in a file: 'road, route'; write one class a line" in caplog.text
    assert read_classes(["a, b", "c|d"]).classes == (("a, b",), ("c", "d"))


CATEGORIES = json.dumps([{"id": 1, "isthing": 1, "name": "person"}, {"id": 2, "isthing": 1, "name": "car"}])


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("one.txt", "cat, car, sky\n", "names a single class, 'cat, car, sky'; write one class a line"),
        ("names.csv", "name\ncat\n", "a table, expected a list of classes; write one class a line"),
        ("header.txt", "id,name\n0,cat\n1,dog\n", "a table with the header 'id,name'"),
        ("colours.txt", "name,r,g,b\ncat,1,2,3\n", "a table with the header 'name,r,g,b'"),
        ("column.txt", "Name\ncat\ndog\n", "a table with the header 'Name'"),
        ("tabs.txt", "cat\tfeline\n", "name 1 holds a tab, as a table has"),
        ("numbered.txt", "0 cat\n1 dog\n", "the lines are numbered, .*between synonyms: cat, dog"),
        ("numbered2.txt", "1: cat\n2: dog\n", "the lines are numbered, .*: cat, dog"),
        ("semicolon.txt", "road;route\ncar;auto\n", "'road;route' holds ';': .*same class by '|'"),
        (
            "labelme.json",
            '{"shapes": [{"label": "cat"}, {"label": "cat"}]}',
            "a labelme annotation, .*: cat$",
        ),
        ("coco.json", '{"images": [], "categories": [{"name": "cat"}]}', "a COCO data set, .*: cat$"),
        ("detectron.json", CATEGORIES, "Detectron's or COCO's categories, .*: person, car$"),
        ("metadata.json", '{"thing_classes": ["cat"]}', "metadata with 'thing_classes', .*: cat$"),
        ("cvat.json", '[{"name": "cat", "attributes": []}]', "CVAT's labels, .*: cat$"),
        (
            "labelmap.txt",
            "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:128,0,0::\n",
            "CVAT's label map, .*: background, cat$",
        ),
        ("id2label.json", '{"0": "cat", "1": "dog"}', "maps numbers to names, .*: cat, dog$"),
        ("label2id.json", '{"cat": 0, "dog": 1}', "maps names to numbers, .*: cat, dog$"),
        (
            "data.yaml",
            "nc: 2\nnames:\n  0: cat\n  1: dog\n",
            r"YAML with more than a list of names \('nc: 2'\)",
        ),
        ("flow.yaml", "[cat, dog]\n", "begins like JSON and is none"),
        ("cut.json", '["cat", ', "begins like JSON and is none"),
        ("number.json", "3", "expected a JSON list of names, got 3"),
        ("numbers.json", "[1, 2]", "class 1 is 1: expected text"),
        ("objects.json", '[{"id": 1}]', "a list of objects, not a list of classes"),
        ("empty.txt", "# nothing\n\n", "no class is given"),
        ("latin.txt", "B\xe4ume\n".encode("latin-1"), "cannot be read: not a text file in UTF-8 or UTF-16"),
        ("photo.txt", b"\xff\xd8\xff\xe0\x00\x10JFIF", "cannot be read: not a text file"),
        ("twice.txt", "cat\ndog\nCat\n", "class 3 has the name of class 1: 'Cat'; rename one"),
    ],
)
def test_files_that_are_refused(tmp_path, name, data, message):
    file = write(tmp_path, data, name)
    with pytest.raises(ClassesError, match=message) as refusal:
        read_classes(file)
    assert str(refusal.value).startswith(f"{file[1:]}: ")
    assert "\n" not in str(refusal.value)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ClassesError, match=r"nowhere\.txt: cannot be read: No such file"):
        read_classes("@nowhere.txt")
    with pytest.raises(ClassesError, match="cannot be read: Is a directory"):
        read_classes(f"@{tmp_path}")


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ("", "no class is given; write some words"),
        (" , ", "no class is given"),
        ([], "no class is given"),
        ({}, "no class is given"),
        ("cat,,grass", "class 2 has an empty name"),
        ("cat,", "class 2 has an empty name"),
        ("car||automobile", "class 1 has an empty name"),
        ("cat, \udcff", r"'\\udcff' is not text; write it in UTF-8"),  # a byte of another encoding
        ("cat, dog, Cat", "class 3 has the name of class 1: 'Cat'"),
        ("car|auto, bus|auto", "'auto' is in class 'car' and again in 'bus'"),
        ("car|Car", "'Car' is in class 'car' and again in 'car'"),
        ("caf\u00e9, cafe\u0301", "class 2 has the name of class 1"),  # NFC and NFD
        ("cat, c\u00adat", "class 2 has the name of class 1"),  # a soft hyphen
        ("cat, \u200bcat\ufeff", "class 2 has the name of class 1"),
        ("cat\uff1bdog", "holds '\uff1b': separate classes by ','"),
        ("cat\uff0cdog", "'cat\uff0cdog' holds '\uff0c'"),
        ("cat\u3001dog", "'cat\u3001dog' holds '\u3001'"),
        ("cat;dog", "'cat;dog' holds ';'"),
        ("cat\tdog", r"'cat\\tdog' holds '\\t'"),
        (["cat;dog"], "'cat;dog' holds ';'"),
        ("cat\x07", r"'cat\\x07' holds the control character '\\x07'"),
        ("'cat', 'dog'", "'cat' is in quotes; remove them"),
        ("['cat', 'dog']", "the classes: begins like JSON and is none"),
        ("names.txt", "'names.txt' looks like a file: write '@names.txt' to read its classes"),
        ("cat, ?", r"'\?' has no letter or digit"),
        ({"cat", "dog"}, "classes are a set, which has no order"),
        (frozenset({"cat"}), "classes are a set"),
        (b"cat", "classes are bytes: expected text"),
        (None, "classes are NoneType: expected text"),
        (3, "classes are int: expected text"),
        (["cat", 3], "class 2 is 3: expected text"),
        ({"cat": 3}, "class 1 is 3: expected text"),
        (["cat", None], "class 2 has an empty name"),
        ("background", "the only class is 'background', which has no words"),
        ("cat, background", "class 2 is 'background': only the first can be the background"),
        ("__ignore__, cat", "the first class is '__ignore__', and no '_background_' follows"),
    ],
)
def test_classes_that_are_refused(classes, message):
    with pytest.raises(ClassesError, match=message):
        read_classes(classes)


@pytest.mark.parametrize("first", ["background", "Background", "_background_", "__ignore__, _background_"])
def test_a_first_class_named_background_is_label_0(first):
    vocabulary = read_classes(f"{first}, cat, dog")
    assert vocabulary.names == ("background", "cat", "dog")
    assert vocabulary.background


def test_joiners_stay_between_letters_that_need_them():
    assert read_classes("\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645").names == (
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
    )


def test_a_packaged_vocabulary_by_name():
    assert read_classes("voc21") == load_vocabulary("voc21")
    assert read_background_classes(" surroundings ").classes == load_vocabulary("surroundings").classes
    assert choose_classes(None, "voc20") == load_vocabulary("voc20")


def test_strangers_cannot_name_a_file(tmp_path):
    file = write(tmp_path, "cat\n")
    with pytest.raises(ClassesError, match="files are not read here; send the names"):
        read_classes(file, files=False)
    with pytest.raises(ClassesError, match="files are not read here"):
        choose_classes("red", background_classes=file, files=False)
    with pytest.raises(ClassesError, match=r"'a\.txt' looks like a file: send the names themselves"):
        read_classes("a.txt", files=False)


def test_background_classes_share_no_word_with_classes():
    chosen = choose_classes("red, dog", background_classes="green, pink|RED, blue")
    assert chosen.names == ("background", "red", "dog")
    assert chosen.background_classes == (("green",), ("blue",))
    with pytest.raises(ClassesError, match="leave out background 'none'"):
        choose_classes("red", background="none", background_classes="blue")
    with pytest.raises(ClassesError, match="name a background themselves"):
        choose_classes("red", background_classes="voc21")


def test_classes_and_vocabulary_exclude_each_other():
    for arguments in ((None, None), ("cat", "voc20")):
        with pytest.raises(ClassesError, match=r"give either classes, .*, or a vocabulary"):
            choose_classes(*arguments)


def test_what_a_background_can_be():
    assert [check_background(value) for value in (None, "none", 0, 1, 0.5)] == [None, "none", 0.0, 1.0, 0.5]
    assert choose_classes("voc21", background="none").background is False
    assert choose_classes("cat", background=0.5).names == ("background", "cat")
    assert [parse_background(text) for text in (None, "none", "0", ".5", "1.", "2e-1")] == [
        *(None, "none", 0.0, 0.5, 1.0, 0.2)
    ]


@pytest.mark.parametrize("value", [True, False, "0.5", float("nan"), 1.5, -0.1, float("inf"), [0.5], "None"])
def test_what_a_background_cannot_be(value):
    with pytest.raises(ClassesError, match="the background's threshold must be"):
        check_background(value)


@pytest.mark.parametrize("text", ["", "2", "-0.1", "nan", "inf", "0,5", "half", "0x1", "1e", "\u0660"])
def test_what_cannot_be_typed_as_a_background(text):
    with pytest.raises(ClassesError, match=r"is neither 'none' nor a number in 0\.\.1"):
        parse_background(text)


@pytest.mark.parametrize("name", vocabulary_names())
def test_a_packaged_vocabulary_can_be_saved_as_names(tmp_path, name):
    vocabulary = load_vocabulary(name)
    saved = read_classes(write(tmp_path, write_list(vocabulary), "names.txt"))
    assert saved.names == vocabulary.names
    assert saved.classes == vocabulary.classes or name in ("ade847", "context459")  # they repeat synonyms
    assert saved.background == vocabulary.background
