import dataclasses
import shutil
from concurrent.futures import Future

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ovsdino_runtime.base.errors import ClassesError, EngineError, PhotoError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import Graph, Tensor, write_bundle
from ovsdino_runtime.engines.onnxruntime import open_engine
from ovsdino_runtime.pipelines.host_stages import Prepare
from ovsdino_runtime.pipelines.pipeline import HostPipeline, open_pipeline
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import read_classes

COLOURS = "red, green, blue"


@pytest.fixture
def any_size(staging, manifest, tmp_path):
    """The tiny bundle with a vision graph that takes photos of any size."""
    folder = shutil.copytree(staging, tmp_path / "staging")
    model = onnx.load(folder / "vision.onnx")
    del model.graph.input[:], model.graph.output[:]
    pixels, features = ["batch", 3, "height", "width"], ["batch", 6, "rows", "columns"]
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, pixels))
    model.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, features))
    onnx.save(model, folder / "vision.onnx")
    tensors = (Tensor("pixels", "float32", tuple(pixels)),), (Tensor("features", "float32", tuple(features)),)
    graphs = manifest.graphs | {"vision": Graph("vision.onnx", "fp32", *tensors)}
    return write_bundle(tmp_path / "any.ovs", dataclasses.replace(manifest, graphs=graphs), folder)


def test_label_is_its_stages_one_after_the_other(shared_bundle, flag):
    pipeline = open_pipeline(shared_bundle, RuntimeOptions(threads=1))
    assert isinstance(pipeline, HostPipeline)
    text = Future()
    text.set_result(Segmenter.load(shared_bundle.path).encode_text(read_classes(COLOURS)))
    pixels = pipeline.label(flag, text, threshold=0.6, scores=True)
    prepared = pipeline.prepare(flag)
    features = pipeline.encode_windows(prepared)
    labels, scores = pipeline.merge(prepared, features, text.result(), threshold=0.6)
    np.testing.assert_array_equal(pixels.labels, labels)
    np.testing.assert_array_equal(pixels.scores, scores)
    assert list(pixels.timings) == ["resize", "vision", "text", "merge"]
    assert pipeline.label(flag, text, threshold=None, scores=False).scores is None


def test_without_scores_regions_have_none(shared_bundle, flag):
    segmentation = Segmenter.load(shared_bundle.path)(flag, COLOURS, scores=False)
    assert segmentation.scores is None
    assert [region.score for region in segmentation.regions()] == [None] * 3


def test_without_windows_a_photo_is_stretched_to_the_one_size_of_the_graph(shared_bundle, flag):
    image_features = []
    segmenter = Segmenter.load(shared_bundle.path, inference="whole", threads=1)
    real = segmenter.vision.run
    segmenter.vision.run = lambda inputs: image_features.append(inputs["pixels"].shape) or real(inputs)
    result = segmenter(flag, COLOURS)
    assert image_features == [(1, 3, 64, 64)]
    expected = np.repeat([0, 1, 2], 50)
    interior = np.abs(np.arange(150)[:, None] - [50, 100]).min(axis=1) > 150 / 8  # a patch
    assert (result.labels[:, interior] == expected[interior]).all()
    assert set(np.unique(result.labels)) == {0, 1, 2}


@pytest.mark.parametrize(
    ("size", "expected"), [((90, 150), (64, 104)), ((64, 64), (64, 64)), ((2, 900), (8, 256))]
)
def test_without_windows_a_graph_of_any_size_sees_the_whole_photo(any_size, size, expected):
    """Proportions are kept, to whole patches; each node is then the mean colour of its patch."""
    image_features = []
    segmenter = Segmenter.load(any_size.path, inference="whole", threads=1)
    real = segmenter.vision.run
    segmenter.vision.run = lambda inputs: image_features.append(inputs["pixels"]) or real(inputs)
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert segmenter(photo, COLOURS).labels.shape == size
    (pixels,) = image_features
    assert pixels.shape == (1, 3, *expected)
    resized = segmenter.pipeline.prepare(photo).resized
    np.testing.assert_allclose(pixels[0].transpose(1, 2, 0), resized / 127.5 - 1, atol=1e-6)


def test_with_windows_both_graphs_see_the_same(any_size, shared_bundle, flag):
    labels = [Segmenter.load(b.path, threads=1)(flag, COLOURS).labels for b in (any_size, shared_bundle)]
    np.testing.assert_array_equal(*labels)


def test_a_whole_photo_is_never_smaller_than_a_patch(any_size):
    prepare = Prepare(any_size.manifest, inference="whole")
    assert prepare(np.zeros((1, 4000, 3), np.uint8)).resized.shape == (8, 256, 3)
    assert prepare(np.zeros((1, 1, 3), np.uint8)).resized.shape == (64, 64, 3)


def test_an_unknown_engine_is_refused(shared_bundle):
    with pytest.raises(
        EngineError, match="device 'cpu' with engine 'tensorrt': expected cpu with onnxruntime"
    ):
        Segmenter.load(shared_bundle.path, engine="tensorrt")


def test_the_engine_of_the_text_has_the_options_of_the_pipeline(shared_bundle):
    pipeline = HostPipeline(
        shared_bundle, open_engine(shared_bundle, "vision", threads=1), RuntimeOptions(threads=1)
    )
    assert pipeline.open_text().description.endswith("1 threads")


def test_naming_what_was_seen_is_the_call(shared_bundle, flag):
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    image_features = segmenter.encode(flag)
    assert list(image_features.timings) == ["decode", "resize", "vision"]
    for words, background in ((COLOURS, None), ("yellow|white, black", None), ("red, blue", 0.6)):
        named, called = (
            segmenter.segment(image_features, words, background=background),
            segmenter(flag, words, background=background),
        )
        np.testing.assert_array_equal(named.labels, called.labels)
        np.testing.assert_array_equal(named.scores, called.scores)
        np.testing.assert_array_equal(named.photo, called.photo)
        same = [
            f.name
            for f in dataclasses.fields(named)
            if f.name not in ("photo", "labels", "scores", "timings")
        ]
        assert [getattr(named, name) for name in same] == [getattr(called, name) for name in same]
        assert list(named.timings) == ["text", "merge"]  # its own, not those of the seeing
        assert list(called.timings) == [*image_features.timings, *named.timings]
    assert segmenter.segment(image_features, COLOURS, scores=False).scores is None


def test_naming_does_not_look_again(shared_bundle, flag, monkeypatch):
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    image_features = segmenter.encode(flag)
    monkeypatch.setattr(segmenter.vision, "run", None)  # calling it would fail
    assert set(segmenter.segment(image_features, "red, yellow").coverage()) == {"red", "yellow"}


def test_what_another_model_saw_is_refused(shared_bundle, any_size, flag):
    image_features = Segmenter.load(any_size.path, threads=1).encode(flag)
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    with pytest.raises(PhotoError, match=r"another model encoded this photo.*; encode it again"):
        segmenter.segment(image_features, COLOURS)
    again = Segmenter.load(shared_bundle.path, inference="whole", threads=1).encode(
        flag
    )  # the same, another way
    assert segmenter.segment(again, COLOURS).labels.shape == flag.shape[:2]


def test_what_cannot_be_named_is_refused(shared_bundle, flag):
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    with pytest.raises(PhotoError, match="no such file"):
        segmenter.encode("nothing.png")
    with pytest.raises(ClassesError, match="no class is given"):
        segmenter.segment(segmenter.encode(flag), "")
    with pytest.raises(ClassesError, match=r"must be in 0\.\.1, got 2"):
        segmenter.segment(segmenter.encode(flag), COLOURS, background=2)
