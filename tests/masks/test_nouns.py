"""From captions to nouns: tagging, lemmas, bigrams, filters, against hand-worked captions."""

import io
import json
import pickle
import tarfile
import zipfile

import pytest

from ovsdino.masks.errors import MaskError
from ovsdino.masks.nouns.captions import CaptionedPhoto, read_captions
from ovsdino.masks.nouns.lexicon import Lexicon, Sense
from ovsdino.masks.nouns.nltk_data import open_lexicon, open_tagger, read_open_english_wordnet, search_folders
from ovsdino.masks.nouns.nouns import NounFilter, caption_runs, photo_nouns

WORDS = {
    "06": "cat dog racket bus glass knife box man church lady light photo truck glasses",
    "04": "tennis",
    "14": "traffic",
    "10": "news traffic_light",
    "05": "ox",
    "19": "light",
    "18": "child",
    "03": "person",
}
LEXICON = Lexicon.from_senses(
    [
        Sense(word, file, synset=f"{word}-{file}", rank=1)
        for file, words in WORDS.items()
        for word in words.split()
    ],
    {"children": "child", "oxen": "ox"},
    {},
)


def tag(words):
    """Every word is a noun, save a few."""
    return [(word, "DT" if word in {"a", "the", "with", "is", "."} else "NN") for word in words]


def nouns_of(captions, **rules):
    photos = [CaptionedPhoto(str(number), tuple(said)) for number, said in enumerate(captions)]
    return photo_nouns(
        photos,
        lambda text: caption_runs(text, tag, LEXICON),
        lexicon=LEXICON,
        rules=NounFilter(**{"min_captions": 1} | rules),
    )


@pytest.mark.parametrize(
    ("word", "lemma"),
    [
        ("cats", "cat"),
        ("buses", "bus"),
        ("glasses", "glass"),  # the shortest, as NLTK's lemmatizer
        ("boxes", "box"),
        ("men", "man"),
        ("churches", "church"),
        ("ladies", "lady"),
        ("children", "child"),
        ("people", "person"),
        ("oxen", "ox"),
        ("bus", "bus"),
        ("xyzzy", None),
    ],
)
def test_lemmas(word, lemma):
    assert LEXICON.lemma(word) == lemma


def test_physical_is_any_physical_sense_or_the_head_of_a_compound():
    assert LEXICON.physical("light")
    assert not LEXICON.physical("news")
    assert LEXICON.physical("traffic light")  # WordNet's own entry is of communication, its head is not
    assert not LEXICON.physical("light news")


def test_plural_and_singular_are_one_noun_and_captions_are_pooled():
    found, counts = nouns_of([["a cat is a cat", "the cats", "a dog"], ["Cats with a Truck."]])
    assert found[0].nouns == ("cat", "dog")
    assert found[1].nouns == ("cat", "truck")
    assert counts == {"cat": 3, "dog": 1, "truck": 1}  # captions, not words


def test_a_frequent_bigram_is_one_noun_and_takes_its_parts():
    said = [["a tennis racket", "a tennis rackets with a racket"], ["the racket"]]
    found, counts = nouns_of(said, min_captions=2)
    assert counts == {"tennis racket": 2, "racket": 2}
    assert found[0].nouns == ("tennis racket", "racket")
    assert found[0].others == ("tennis",)
    rare, counts = nouns_of([["a tennis racket", "a racket"]], min_captions=2)
    assert counts == {"racket": 2}
    assert rare[0].nouns == ("racket",)


@pytest.mark.parametrize(
    ("caption", "why"),
    [
        ("a photo", "says what the photo is, not what it shows"),
        ("the news", "cannot be seen"),
        ("a ox", "two letters"),
        ("a xyzzy", "not in WordNet"),
        ("the 1950s", "no word"),
    ],
)
def test_what_is_filtered_out(caption, why):
    found, counts = nouns_of([[caption, "a cat"]])
    assert counts == {"cat": 1}, why
    assert found[0].nouns == ("cat",)


def test_filtered_words_are_remembered_as_said():
    found, _ = nouns_of([["a photo with a cat", "the xyzzy"]])
    assert found[0].others == ("photo", "xyzzy")


def test_rare_nouns_are_left_out():
    found, counts = nouns_of([["a cat", "a dog"], ["a cat"]], min_captions=2)
    assert counts == {"cat": 2}
    assert found[0].others == ("dog",)


def test_two_sentences_do_not_make_a_bigram():
    _, counts = nouns_of([["a traffic light", "the traffic light", "traffic. Light"]], min_captions=2)
    assert counts == {"traffic light": 2}


# NLTK's data


def test_the_real_tagger_reads_captions(nltk_data):
    folders = search_folders(nltk_data)
    tagger, lexicon = open_tagger(folders), open_lexicon(folders)
    runs = caption_runs("two dogs run with a ball", tagger, lexicon)
    assert [[noun.lemma for noun in run] for run in runs] == [["dog"], ["ball"]]
    runs = caption_runs("A man holds a tennis racket.", tagger, lexicon)
    assert [[noun.lemma for noun in run] for run in runs] == [["man"], ["tennis", "racket"]]


def test_the_older_tagger_file_tags_the_same(nltk_data, tmp_path):
    new = nltk_data / "taggers" / "averaged_perceptron_tagger_eng"
    parts = [
        json.loads((new / f"averaged_perceptron_tagger_eng.{part}.json").read_text())
        for part in ("weights", "tagdict", "classes")
    ]
    name = "averaged_perceptron_tagger"
    with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
        data = pickle.dumps((parts[0], parts[1], set(parts[2])), protocol=2)
        archive.writestr(f"{name}/{name}.pickle", data)
    words = ["people", "and", "a", "photo", "of", "the", "red", "cat"]
    assert open_tagger([tmp_path])(words) == open_tagger([nltk_data])(words)


class Evil:
    def __reduce__(self):
        return (print, ("owned",))


def test_a_pickle_with_code_is_refused(tmp_path, capsys):
    name = "averaged_perceptron_tagger"
    (tmp_path / name).mkdir()
    (tmp_path / name / f"{name}.pickle").write_bytes(pickle.dumps((Evil(), {}, set())))
    with pytest.raises(MaskError, match=r"builtins.print, which is no plain data"):
        open_tagger([tmp_path])
    assert capsys.readouterr().out == ""


def test_what_is_missing_is_named_with_its_command(tmp_path):
    with pytest.raises(MaskError, match=r"python -m nltk.downloader averaged_perceptron_tagger_eng"):
        open_tagger([tmp_path])
    with pytest.raises(MaskError, match=r"python -m nltk.downloader wordnet.*--nltk-data FOLDER"):
        open_lexicon([tmp_path])
    with pytest.raises(MaskError, match="no such folder"):
        search_folders(tmp_path / "nowhere")


ENTRIES = """\
Cat:
  n:
    sense:
    - id: 'cat%1:18:00::'
      synset: 09999999-n
cat:
  n:
    sense:
    - id: 'cat%1:05:00::'
      synset: 02124272-n
  v:
    sense:
    - id: 'cat%2:35:00::'
      synset: 01408296-v
child:
  n:
    form:
    - children
    sense:
    - derivation:
      - childly%5:00:00:young:00
      id: 'child%1:18:00::'
      synset: 09937051-n
kitty:
  n:
    sense:
    - derivation:
      - 'kittenish%3:00:00::'
      id: 'kitty%1:21:00::'
      synset: 13405866-n
    - id: 'kitty%1:05:00::'
      subcat:
      - via
      synset: 02124272-n
feline:
  n:
    sense:
    - id: 'feline%1:05:00::'
      synset: 02123649-n
run:
  v:
    form:
    - ran
    sense:
    - id: 'run%2:38:00::'
      synset: 01930264-v
traffic light:
  n:
    sense:
    - id: 'traffic_light%1:10:00::'
      synset: 06887235-n
"""
HYPERNYMS = """\
02123649-n:
  definition:
  - "a cat: any of various lithe-bodied mammals"
  hypernym:
  - 02077948-n
  members:
  - feline
02124272-n:
  hypernym:
  - 02123649-n
  - 01320032-n
  members:
  - cat
  - kitty
"""


def test_open_english_wordnet_reads_like_wordnet(tmp_path):
    archive = tmp_path / "open_english_wordnet_yaml.tar.xz"
    with tarfile.open(archive, "w:xz") as files:
        for name, text in (("entries-c", ENTRIES), ("noun.animal", HYPERNYMS), ("verb.motion", "0-v:\n")):
            member = tarfile.TarInfo(f"src/yaml/{name}.yaml")
            member.size = len(text)
            files.addfile(member, io.BytesIO(text.encode()))
    for lexicon in (read_open_english_wordnet(archive), open_lexicon([tmp_path])):
        assert lexicon.nouns == {
            "cat": True,
            "child": True,
            "feline": True,
            "kitty": True,
            "traffic light": False,
        }
        assert lexicon.synsets["cat"] == ("02124272-n", "09999999-n"), "Cat, the name, comes second"
        assert lexicon.above["02124272-n"] == ("02123649-n", "01320032-n")
        assert lexicon.synonyms(["kitty", "child", "cat"]) == {
            "cat": ("cat", "kitty"),
            "kitty": ("kitty", "cat"),
        }
        assert lexicon.wider(["kitty", "feline", "child"]) == {"kitty": "feline"}
        assert lexicon.lemma("children") == "child"
        assert lexicon.lemma("ran") is None
    archive.write_bytes(archive.read_bytes()[:100])
    with pytest.raises(MaskError, match="cannot be read"):
        read_open_english_wordnet(archive)


# What means the same


def test_princetons_files_say_what_means_the_same_and_what_holds_it(nltk_data):
    lexicon = open_lexicon(search_folders(nltk_data))
    nouns = ["woman", "lady", "man", "couch", "sofa", "cat", "tennis racket", "racket", "traffic light"]
    assert lexicon.synonyms(nouns) == {"couch": ("couch", "sofa"), "sofa": ("sofa", "couch")}
    heads = {"tennis racket": "racket"}
    assert lexicon.wider(nouns) == {"lady": "woman", **heads}
    assert lexicon.wider([*nouns, "person", "light"]) == {
        "lady": "woman",
        "woman": "person",
        "man": "person",
        "traffic light": "light",  # WordNet's own entry is of communication
        **heads,
    }
    assert lexicon.wider(["lady", "person"]) == {"lady": "person"}, "the next one in the vocabulary"


# A word's first physical synset is what it means; "plant" means a factory, and holds trees all the same.
SENSES = [
    Sense("plant", "06", synset="factory", rank=1),
    Sense("plant", "20", synset="flora", rank=2),
    Sense("flora", "20", synset="flora", rank=1),
    Sense("works", "06", synset="factory", rank=1),
    Sense("oak", "20", synset="oak", rank=1),
    Sense("tree", "20", synset="tree", rank=1),
    Sense("news", "10", synset="oak", rank=1),
    Sense("oak", "10", synset="news", rank=0),
]
UP = {"oak": ("wood", "tree"), "wood": ("oak",), "tree": ("flora",)}
TREE = Lexicon.from_senses(reversed(SENSES), {}, UP)


def test_the_most_common_physical_sense_is_what_a_noun_means():
    assert TREE.synonyms(["works", "plant", "flora", "oak", "news"]) == {
        "plant": ("plant", "works"),
        "works": ("works", "plant"),
    }


def test_all_senses_of_a_wider_noun_count_and_circles_end():
    assert TREE.wider(["oak", "plant"]) == {"oak": "plant"}
    assert TREE.wider(["oak", "plant", "tree", "flora"]) == {"oak": "tree", "tree": "flora"}
    assert TREE.wider(["dwarf oak", "oak"]) == {"dwarf oak": "oak"}
    assert TREE.wider(["dwarf oak", "tree"]) == {"dwarf oak": "tree"}


# Caption files


def test_captions_are_matched_by_path_or_name(photos, captions):
    found = read_captions(captions, photos)
    assert [photo.image for photo in found.photos] == ["a.jpg", "b.jpg", "d.jpg", "sub/c.png"]
    assert found.photos[3].captions == ("a cat and a man",)
    assert (found.missing, found.uncaptioned, found.empty) == ((), 0, 1)
    by_name = json.loads(captions.read_text().replace("sub/c.png", "elsewhere/c.png"))
    by_name["images"].append({"id": 99, "file_name": "e.jpg"})
    captions.write_text(json.dumps(by_name))
    (photos / "more.webp").write_bytes(b"")
    found = read_captions(captions, photos)
    assert found.photos[3].image == "sub/c.png"
    assert (found.missing, found.uncaptioned) == (("e.jpg",), 1)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ('{"annotations": []}', "'images' is not where it should be; expected COCO's captions"),
        ("[]", "expected COCO's captions"),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "bbox": []}]}',
            "'caption' is not where it should be; expected COCO's captions, such as captions_train2017.json",
        ),
        ('{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": []}', "no caption in it"),
        (
            '{"images": [{"id": 1, "file_name": "z.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}]}',
            r"none of its 1 photos is in .* \(it names z.jpg, the folder has a.jpg\)",
        ),
        (
            '{"images": [{"id": 1, "file_name": "a.jpg"}], "annotations": [{"image_id": 1, "caption": " "}]}',
            "all 1 captions are empty",
        ),
    ],
)
def test_a_file_that_does_not_fit_is_refused_in_a_line(photos, tmp_path, content, message):
    (tmp_path / "captions.json").write_text(content)
    with pytest.raises(MaskError, match=message) as caught:
        read_captions(tmp_path / "captions.json", photos)
    assert len(str(caught.value).splitlines()) == 1
