"""Connectors to other tools, each read back by the tool itself."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import ClassesError, OutputError
from ovsdino_runtime.integrations.class_masks import class_masks
from ovsdino_runtime.integrations.cvat import CvatFunction, create
from ovsdino_runtime.integrations.supervision import to_supervision
from ovsdino_runtime.integrations.transformers import to_transformers
from ovsdino_runtime.segmenter import Segmenter


@pytest.fixture
def segmentation(shared_bundle, flag):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        yield segmenter(flag, "red, green, blue")


@pytest.fixture
def with_background(shared_bundle, flag):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        yield segmenter(flag, "red, green", background_classes="blue")


def masks_by_loop(segmentation):
    """Collect each class's pixels, one pixel after the other; the background is none."""
    masks = {}
    for (row, column), label in np.ndenumerate(segmentation.labels):
        if segmentation.background is None or label:
            name = segmentation.classes[label]
            masks.setdefault(name, np.zeros(segmentation.labels.shape, bool))[row, column] = True
    return masks


@pytest.mark.parametrize("which", ["segmentation", "with_background"])
def test_transformers_shape(which, request):
    segmentation = request.getfixturevalue(which)
    expected = masks_by_loop(segmentation)
    result = to_transformers(segmentation)
    assert {entry["label"] for entry in result} == set(expected)
    for entry in result:
        assert set(entry) == {"label", "score", "mask"}
        assert np.array_equal(np.asarray(entry["mask"]), 255 * expected[entry["label"]])
        assert 0 <= entry["score"] <= 1


@pytest.mark.parametrize("which", ["segmentation", "with_background"])
def test_supervision_takes_the_detections(which, request):
    sv = pytest.importorskip("supervision")
    segmentation = request.getfixturevalue(which)
    expected = masks_by_loop(segmentation)
    detections = to_supervision(segmentation)
    assert len(detections) == len(expected)
    for mask, box, label, name in zip(
        detections.mask, detections.xyxy, detections.class_id, detections["class_name"], strict=True
    ):
        assert np.array_equal(mask, expected[name])
        assert segmentation.classes[label] == name
        rows, columns = np.nonzero(expected[name])
        assert box.tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
    assert detections.area.sum() == sum(mask.sum() for mask in expected.values())
    picture = sv.MaskAnnotator().annotate(segmentation.photo[..., ::-1].copy(), detections)
    assert (picture != segmentation.photo[..., ::-1]).any()


def test_nothing_found_is_no_detection(with_background):
    sv = pytest.importorskip("supervision")
    nothing = type(with_background)(
        **vars(with_background) | {"labels": np.zeros_like(with_background.labels)}
    )
    assert class_masks(nothing) == []
    assert to_supervision(nothing) == sv.Detections.empty()


def test_without_supervision_the_extra_is_named(segmentation, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "supervision", None)
    with pytest.raises(OutputError, match=r"pip install '\.\[supervision\]'"):
        to_supervision(segmentation)


def asked(*, polygons=False, threshold=None):
    return SimpleNamespace(frame_name="0", conf_threshold=threshold, conv_mask_to_poly=polygons)


def test_cvat_decodes_the_masks(shared_bundle, flag, with_background):
    masks = pytest.importorskip("cvat_sdk.masks")
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        function = CvatFunction(segmenter, "red, green", "blue")
        names = {label.id: label.name for label in function.spec.labels}
        shapes = function.detect(asked(), Image.fromarray(flag))
        with pytest.raises(OutputError, match="conv-mask-to-poly"):
            function.detect(asked(polygons=True), Image.fromarray(flag))
        assert function.detect(asked(threshold=1.1), Image.fromarray(flag)) == []
    expected = masks_by_loop(with_background)
    assert {names[shape.label_id] for shape in shapes} == set(expected)
    height, width = flag.shape[:2]
    for shape in shapes:
        assert shape.type.value == "mask"
        decoded = masks.decode_mask(shape.points, image_width=width, image_height=height)
        assert np.array_equal(decoded, expected[names[shape.label_id]])


def test_cvat_needs_classes():
    with pytest.raises(ClassesError, match="name the task's labels"):
        create()


def test_without_cvat_its_extra_is_named(monkeypatch, shared_bundle):
    for name in ("cvat_sdk", "cvat_sdk.auto_annotation"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    with segmenter, pytest.raises(OutputError, match=r"pip install '\.\[cvat\]'"):
        CvatFunction(segmenter, "red")
