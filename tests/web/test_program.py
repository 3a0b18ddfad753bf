"""The page's program against the runtime, and its tokenizer against the library tokenizers."""

import dataclasses
import json
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from tokenizers import Tokenizer

from ovsdino_export.web.settings import page_settings
from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import packaged_models
from ovsdino_runtime.geometry.merge import merge_argmax, merge_geometry
from ovsdino_runtime.geometry.preprocess import Preprocessing, cut_windows, fit_size, normalise
from ovsdino_runtime.geometry.refine import RefineGeometry, Refinement, coarse_size, refine_argmax
from ovsdino_runtime.geometry.regions import merge_small_regions
from ovsdino_runtime.geometry.windows import plan_windows, window_weights
from ovsdino_runtime.text.class_lists import choose_classes, read_classes
from ovsdino_runtime.text.vocabulary import load_vocabulary
from tests.web.program import evaluate, needs_node

pytestmark = needs_node
SIZES = [(1, 1), (7, 300), (64, 64), (65, 64), (90, 150), (448, 640), (37, 2), (500, 333)]
TEXTS = [
    "a red Car",
    "traffic-light, it's",
    "CAFÉ au lait, naïve Ångström",
    "ΣΊΣΥΦΟΣ İstanbul",
    "車 and 猫 together",
    "line\nbreak\tand\u00a0space\u3000wide\u200b",
    "don't stop!! 123.45 x² ½",
    "emoji 😀 👩‍👩‍👧 é́",
    # ruff: noqa: RUF001
    "&amp; &lt;b&gt; ‘curly’ “quotes” ﬁne ＡＢＣ１",
    "supercalifragilisticexpialidocious " * 9,
    "x" * 70,
    "",
    " ",
    "~`@#$%^&*()_+-={}[]|\\:;<>?/",
]


def random_texts(count):
    """Texts of all scripts and signs, as hypothesis finds them.

    Newer characters than those of Unicode 3.2 are left out: libraries have tables of different versions.
    """
    found = []
    characters = st.characters(exclude_categories=("Cs", "Cn", "Co"))
    known = characters.filter(lambda c: unicodedata.ucd_3_2_0.category(c) != "Cn")

    @settings(max_examples=count, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.text(alphabet=known, max_size=40))
    def collect(text):
        found.append(text)

    collect()
    return found


def check_tokenizer(tokenizer, texts, folder, context_length):
    """Compare ids of the page's tokenizer with the library's."""
    description = json.loads(tokenizer.to_str())
    found = evaluate(
        folder,
        "(() => { const tokenize = openTokenizer(given.description, given.length);"
        " return given.texts.map((text) => tokenize(text).ids); })()",
        {"description": description, "texts": texts, "length": context_length},
    )
    tokenizer.enable_truncation(context_length)
    tokenizer.no_padding()
    for text, ids in zip(texts, found, strict=True):
        assert ids == tokenizer.encode(text).ids, repr(text)


def test_the_tokenizer_of_nano_reads_as_the_library_does(tmp_path):
    file = packaged_models()["nano"] / "tokenizer.json"
    check_tokenizer(Tokenizer.from_file(str(file)), TEXTS + random_texts(400), tmp_path, 48)


def test_the_tokenizer_of_clip_reads_as_the_library_does(tmp_path):
    pytest.importorskip("open_clip", reason="open_clip, which brings CLIP's merges, is not installed")
    from ovsdino_export.clip import clip_tokenizer

    check_tokenizer(clip_tokenizer(), TEXTS + random_texts(400), tmp_path, 77)


def test_the_tokenizer_of_whole_words_reads_as_the_library_does(shared_bundle, tmp_path):
    tokenizer = Tokenizer.from_file(str(shared_bundle.file("tokenizer.json")))
    check_tokenizer(tokenizer, [*TEXTS, "the Red blue", "red,green"], tmp_path, 16)


def test_another_tokenizer_is_refused(tmp_path):
    description = {"normalizer": {"type": "NFKD"}, "pre_tokenizer": None, "model": {"type": "Unigram"}}
    found = evaluate(tmp_path, "attempt(() => openTokenizer(given, 16))", description)
    assert found["refused"] == "the model's tokenizer has the normalizer NFKD, which this page does not know"


CLASSES = [
    "cat, dog",
    " car|automobile \nsky # above\r\n# a remark\n road ",
    "ade150",
    " surroundings\n",
    "background, cat",
    "_Background_, cat, dog|puppy",
    "__ignore__, _background_, cat",
    "Straße, street",
    "e\u0301clair, a\u200bb, \u0646\u0627\u0645\u0647\u200c\u0627\u06cc",
    "word\u00a0with   spaces",
    # refused:
    "",
    " ,|, ",
    "cat,,dog",
    "cat,\nsky",
    "cat|, dog",
    "cat, Cat",
    "STRASSE, straße",
    "cat|kitten, dog|kitten",
    "cat, background",
    "background",
    "__ignore__, cat",
    "__ignore__",
    "cat; dog",
    "cat\tdog",
    "cat\uff0cdog",
    "'cat', dog",
    "it's 'cat';x",
    "cat, ***",
    "bell\x07, cat",
    "@list.txt",
    "list.txt",
    "café.json",
]


def runtime_reads(text):
    try:
        vocabulary = read_classes(text, files=False)
    except ClassesError as error:
        return {"refused": str(error)}
    classes = [list(words) for words in vocabulary.classes]
    return {"classes": classes, "background": vocabulary.background, "backgroundClasses": []}


def test_classes_are_read_as_the_runtime_reads_them(tmp_path, shared_bundle):
    vocabularies = page_settings(shared_bundle, (8, 8))["vocabularies"]
    found = evaluate(
        tmp_path,
        "given.texts.map((text) => attempt(() => readClasses(text, given.vocabularies)))",
        {"texts": CLASSES, "vocabularies": vocabularies},
    )
    expected = [runtime_reads(text) for text in CLASSES]
    for text, got, want in zip(CLASSES, found, expected, strict=True):
        assert got == want, repr(text)
    assert ["refused" in want for want in expected].index(True) == CLASSES.index("")
    assert all("refused" in want for want in expected[CLASSES.index("") :])


def test_surroundings_that_are_classes_are_no_background(tmp_path):
    around = load_vocabulary("surroundings")
    expected = choose_classes("Sky, cat", background_classes="surroundings")
    found = evaluate(
        tmp_path,
        "withBackgroundClasses(readClasses(given.text, {}), given.around)",
        {"text": "Sky, cat", "around": {"classes": around.classes, "background": False}},
    )
    assert found["background"] is True
    assert found["backgroundClasses"] == [list(words) for words in expected.background_classes]
    assert len(expected.background_classes) < len(around.classes)


def photo_of(height, width, seed=0):
    """Random colours with edges, so that rounding and outlines both count."""
    generator = np.random.default_rng(seed)
    photo = generator.integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo[: height // 2, : width // 3] //= 4
    return photo


def as_photo(array):
    return {"height": array.shape[0], "width": array.shape[1], "data": array.ravel().tolist()}


@pytest.mark.parametrize("target", [(33, 48), (200, 100), (1, 1), (90, 47)])
def test_photos_are_resized_as_pillow_does(target, tmp_path):
    photo = photo_of(90, 150)
    expected = Image.fromarray(photo).resize((target[1], target[0]), Image.Resampling.BILINEAR)
    found = evaluate(
        tmp_path, "resizePhoto(given.photo, ...given.target)", {"photo": as_photo(photo), "target": target}
    )
    assert (found["height"], found["width"]) == target
    assert np.array_equal(np.array(found["data"]).reshape(*target, 3), np.asarray(expected))


def test_windows_are_planned_and_weighed_as_in_the_runtime(tmp_path):
    policy = {"size": 64, "stride": 40}
    limits = {"short_side": 64, "long_side": 256}
    found = evaluate(
        tmp_path,
        "given.sizes.map((size) => { const fit = fitSize(...size, given.limits);"
        " return [fit, planWindows(...fit, given.policy)]; })",
        {"sizes": SIZES, "policy": policy, "limits": limits},
    )
    for size, (fit, plan) in zip(SIZES, found, strict=True):
        assert tuple(fit) == fit_size(*size, **limits)
        expected = plan_windows(*fit, **policy)
        assert [(w.top, w.left) for w in expected] == [(t, c) for t in plan["tops"] for c in plan["lefts"]]
        assert {(w.height, w.width) for w in expected} == {(plan["height"], plan["width"])}
    for taper in (None, 0.1, 0.5):
        weights = evaluate(tmp_path, "windowWeights(9, given)", taper)
        assert np.allclose(weights, window_weights(9, taper), atol=1e-7)


@pytest.mark.parametrize("size", [(64, 64), (40, 64)])  # square, and stretched
def test_windows_are_cut_as_in_the_runtime(size, tmp_path):
    photo = photo_of(70, 90)
    preprocessing = Preprocessing(64, 256)
    windows = plan_windows(size[0], 90, size=64, stride=26)
    expected = cut_windows(normalise(photo[: size[0]], preprocessing), windows, 64)[1]
    window = dataclasses.asdict(windows[1])
    found = evaluate(
        tmp_path,
        "cutWindow(given.photo, given.window, 64, given.preprocessing)",
        {
            "photo": as_photo(photo[: size[0]]),
            "window": window,
            "preprocessing": dataclasses.asdict(preprocessing),
        },
    )
    assert np.allclose(np.array(found).reshape(3, 64, 64), expected, atol=1e-5)


@dataclasses.dataclass(frozen=True)
class Case:
    """Features of windows and embeddings of classes, made up."""

    photo: tuple[int, int]
    resized: tuple[int, int]
    classes: int
    taper: float | None

    def arrays(self):
        generator = np.random.default_rng(self.classes)
        windows = plan_windows(*self.resized, size=64, stride=32)
        features = generator.normal(size=(len(windows), 5, 8, 8)).astype(np.float32)
        text = generator.normal(size=(self.classes, 5)).astype(np.float32)
        features /= np.linalg.norm(features, axis=1, keepdims=True)
        text /= np.linalg.norm(text, axis=1, keepdims=True)
        return windows, features, text

    def given(self, windows, features, text):
        return {
            "size": self.photo,
            "resized": self.resized,
            "policy": {"size": 64, "stride": 32},
            "taper": self.taper,
            "features": features.reshape(len(windows), -1).tolist(),
            "text": text.ravel().tolist(),
        }


CASES = [
    Case((90, 150), (64, 107), 7, 0.5),
    Case((300, 64), (300, 64), 2, None),
    Case((50, 50), (64, 64), 40, 0.25),
]
COSINES = (
    "const windows = planWindows(...given.resized, given.policy);"
    " const cosines = nodeCosines(given.features, windows, [8, 8], given.text, 5);"
)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_windows_are_merged_as_in_the_runtime(case, tmp_path):
    windows, features, text = case.arrays()
    geometry = merge_geometry(windows, (8, 8), resized=case.resized, photo=case.photo, taper=case.taper)
    labels, cosine = merge_argmax(features, text, geometry)
    found = evaluate(
        tmp_path,
        f"(() => {{ {COSINES} return mergeArgmax(cosines,"
        " mergeGeometry(windows, [8, 8], given.resized, given.size, given.taper)); })()",
        case.given(windows, features, text),
    )
    assert (np.array(found["labels"]).reshape(case.photo) == labels).mean() > 0.999  # ties by rounding
    assert np.allclose(np.array(found["cosine"]).reshape(case.photo), cosine, atol=1e-5)


@pytest.mark.parametrize("threshold", [None, 0.1])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_labels_are_refined_as_in_the_runtime(case, threshold, tmp_path):
    windows, features, text = case.arrays()
    size = coarse_size(case.resized)
    guide = photo_of(*size)
    refinement = Refinement(min_area=0.01)
    least = -np.inf if threshold is None else threshold
    geometry = RefineGeometry(
        merge=merge_geometry(windows, (8, 8), resized=case.resized, photo=size, taper=case.taper),
        guide=guide,
        cell=4.0,
        photo=case.photo,
    )
    labels, cosine = refine_argmax(features, text, geometry, threshold=least, refinement=refinement)
    found = evaluate(
        tmp_path,
        f"(() => {{ {COSINES} const size = coarseSize(given.resized);"
        " return refineArgmax(cosines, mergeGeometry(windows, [8, 8], given.resized, size, given.taper),"
        " { guide: given.guide, cell: 4, size: given.size, threshold: given.threshold ?? -Infinity,"
        " refinement: given.refinement }); })()",
        case.given(windows, features, text)
        | {
            "guide": as_photo(guide),
            "threshold": threshold,
            "refinement": dataclasses.asdict(refinement),
        },
    )
    above = cosine >= least  # below it classes have equal scores, and pixels become background
    same = np.array(found["labels"]).reshape(case.photo) == labels
    assert above.mean() > 0.1
    assert same[above].mean() > 0.995  # ties by rounding
    assert np.isclose(np.array(found["cosine"]).reshape(case.photo), cosine, atol=1e-5).mean() > 0.995


def test_small_regions_join_the_same_neighbours_as_in_the_runtime(tmp_path):
    generator = np.random.default_rng(3)
    maps = [generator.integers(0, 4, (24, 31)).astype(np.uint16) for _ in range(4)]
    maps.append(np.kron(generator.integers(0, 3, (6, 8)), np.ones((4, 4))).astype(np.uint16))
    found = evaluate(
        tmp_path,
        "given.map(({ labels, height, width, area }) => mergeSmallRegions(labels, height, width, area))",
        [
            {"labels": m.ravel().tolist(), "height": m.shape[0], "width": m.shape[1], "area": area}
            for m in maps
            for area in (2, 9, 40)
        ],
    )
    expected = [merge_small_regions(m, area) for m in maps for area in (2, 9, 40)]
    for got, want in zip(found, expected, strict=True):
        assert np.array_equal(np.array(got).reshape(want.shape), want)


@pytest.mark.parametrize(
    ("text", "threshold"), [("cat, dog", None), ("cat", 0.2), ("background, cat", 0.3), ("voc21", 0.3)]
)
def test_the_background_has_the_runtime_s_threshold(text, threshold, tmp_path):
    bundle = load_bundle(packaged_models()["nano"])
    found = evaluate(
        tmp_path,
        "chooseThreshold(readClasses(given.text, given.settings.vocabularies), given.settings.head,"
        " given.settings.single_class)",
        {"text": text, "settings": page_settings(bundle, (28, 28))},
    )
    assert found == threshold
