"""A dinov3.seg bundle, opened and used as users do: the segmenter, the command line, what is refused."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime.base.errors import BundleError, EngineError, PhotoError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.manifest import DINOV3SEG_STAGES
from ovsdino_runtime.cli import run
from ovsdino_runtime.engines.onnxruntime import open_engine
from ovsdino_runtime.geometry.preprocess import resize_bilinear
from ovsdino_runtime.pipelines import dinov3seg_open
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from ovsdino_runtime.pipelines.dinov3seg_open import verify_dinov3seg
from ovsdino_runtime.pipelines.pipeline import HostPipeline, open_pipeline
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.prefetch import pack_vocabularies, prefetch
from tests.runtime.dinov3seg_bundle import VIEW, colour_bundle, slow_logits, table


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """The bundle; do not change it."""
    return colour_bundle(tmp_path_factory.mktemp("dinov3seg"))


@pytest.fixture
def engines(colours):
    return {name: open_engine(colours, name, threads=1) for name in ("vision", *DINOV3SEG_STAGES)}


def test_a_photo_is_labelled_as_the_chain_restated_says(colours, flag):
    result = Segmenter.load(colours.path, threads=1)(flag, "blue, red, green")
    view = resize_bilinear(flag, VIEW, VIEW)
    logits = slow_logits(view, table()[[5, 3, 4]])
    probabilities = 1 / (1 + np.exp(-logits.transpose(1, 2, 0)))
    expected = resize_bilinear(resize_bilinear(probabilities, VIEW, VIEW), *flag.shape[:2])  # (H, W, 3)
    assert (result.labels == expected.argmax(axis=2)).mean() > 0.999
    np.testing.assert_allclose(result.scores, expected.max(axis=2), atol=1e-3)
    assert result.coverage().keys() == {"blue", "red", "green"}


def test_words_background_and_word_lists_on_one_view(colours, flag):
    segmenter = Segmenter.load(colours.path, threads=1)
    result = segmenter(flag, "red", background=0.9)
    assert (result.labels[:, 10:40] == 1).all()
    assert (result.labels[:, 60:] == 0).all()
    image_features = segmenter.encode(flag)
    for classes in ("red, green, blue", "green|red, blue"):
        assert (segmenter.segment(image_features, classes).labels == segmenter(flag, classes).labels).all()
    with pytest.raises(PhotoError, match="another model encoded this photo"):
        Segmenter.load("nano", threads=1).segment(image_features, "red, green")


def test_thirty_classes_of_which_eight_are_refined(colours, flag):
    segmenter = Segmenter.load(colours.path, threads=1)
    names = ["red", "green", "blue", *(f"word{number}" for number in range(27))]
    plain = segmenter(flag, names)
    order = np.random.default_rng(0).permutation(30)
    mixed = segmenter(flag, [names[index] for index in order])
    assert (order[mixed.labels] == plain.labels).all()
    assert plain.coverage()["red"] > 0.2


def test_the_command_line_writes_overlay_labels_and_trace(colours, flag_file, tmp_path):
    options = ["--model", str(colours.path), "--classes", "red, green, blue", "--out", str(tmp_path / "out")]
    arguments = [str(flag_file), *options, "--save", "labels", "--trace", str(tmp_path / "trace.json")]
    done = CliRunner().invoke(run, arguments)
    assert done.exit_code == 0, done.output
    labels = np.asarray(Image.open(tmp_path / "out" / "flag_labels.png"))
    assert [int(np.bincount(labels[:, 50 * i + 10 : 50 * i + 40].ravel()).argmax()) for i in range(3)] == [
        0,
        1,
        2,
    ]
    stages = {event["name"] for event in json.loads((tmp_path / "trace.json").read_text())}
    assert {"vision", "whole", "guidance graph", "refine", "late", "decoder", "merge"} <= stages


def test_a_pipeline_of_its_own_kind(colours, shared_bundle):
    assert isinstance(open_pipeline(colours, RuntimeOptions(threads=1)), Dinov3segPipeline)
    assert isinstance(open_pipeline(shared_bundle, RuntimeOptions(threads=1)), HostPipeline)
    with pytest.raises(BundleError, match="tiny has a cosine head and no decoder"):
        Dinov3segPipeline(shared_bundle, {"vision": open_engine(shared_bundle, "vision")})


@pytest.mark.parametrize(
    ("options", "error", "why"),
    [
        ({"device": "cuda", "engine": "tensorrt-rtx"}, EngineError, "this machine has no NVIDIA GPU"),
        ({"precision": "fp16"}, BundleError, "has no fp16 graph vision.fp16, only vision, whole"),
        ({"precision": "int8"}, BundleError, "has no int8 graph vision.int8"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_line(colours, options, error, why):
    with pytest.raises(error, match=why) as refusal:
        open_pipeline(colours, RuntimeOptions(threads=1, **options))
    assert "\n" not in str(refusal.value)


@pytest.mark.gpu
def test_labels_on_a_gpu_are_those_of_the_processor(colours, flag):
    result = Segmenter.load(colours.path, device="cuda")(flag, "blue, red, green")
    expected = Segmenter.load(colours.path)(flag, "blue, red, green")
    assert (result.labels == expected.labels).mean() >= 0.995


def test_the_golden_view_is_reproduced(colours, engines):
    assert verify_dinov3seg(colours, Dinov3segPipeline(colours, engines)) > 0.9999


@pytest.mark.parametrize("part", ["whole", "late", "decoder"])
def test_an_engine_that_computes_something_else_is_refused(colours, engines, part):
    real = engines[part].run

    def wrong(inputs):
        return {name: np.roll(value, 3, axis=-1) * -50 for name, value in real(inputs).items()}

    engines[part].run = wrong
    with pytest.raises(EngineError, match=r"does not reproduce .*golden.npz: mean cosine .* of the labels"):
        verify_dinov3seg(colours, Dinov3segPipeline(colours, engines))


def test_it_is_verified_once_on_a_machine(colours, monkeypatch):
    verified = []
    real = dinov3seg_open.verify_dinov3seg
    monkeypatch.setattr(dinov3seg_open, "verify_dinov3seg", lambda *both: verified.append(1) or real(*both))
    for _ in range(2):
        open_pipeline(colours, RuntimeOptions(threads=1, inference="whole"))
    assert verified == [1]


def test_words_come_from_packs_and_cache(tmp_path, flag, monkeypatch):
    bundle = colour_bundle(tmp_path)
    packed = pack_vocabularies(str(bundle.path), ["voc20"])
    assert "vocabularies/voc20.npz" in packed.manifest.files
    prefetch(str(bundle.path), ["red", "green"], threads=1)
    monkeypatch.setattr(TextEncoder, "_encode", lambda *_: pytest.fail("encoded again"))
    result = Segmenter.load(bundle.path, threads=1)(flag, "cat, red, green")
    assert (result.labels[:, 10:40] == 1).all()
