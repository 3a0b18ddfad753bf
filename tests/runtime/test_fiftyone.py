"""FiftyOne's labels and model. Its MongoDB is replaced by mongomock, an implementation in memory.

fiftyone is not in the extra ``dev``: it brings 100 packages, and an older OpenCV.
"""

import runpy
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import ClassesError, OptionError, OutputError
from ovsdino_runtime.integrations.fiftyone import (
    fiftyone_model,
    mask_targets,
    to_fiftyone,
    to_fiftyone_objects,
)
from ovsdino_runtime.segmenter import Segmenter

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
needs_fiftyone = pytest.mark.filterwarnings("ignore")  # its libraries warn of what they themselves use


@pytest.fixture
def segmenter(shared_bundle):
    with Segmenter.load(shared_bundle.path, threads=1) as segmenter:
        yield segmenter


@pytest.fixture(scope="module")
def fo(tmp_path_factory):
    """FiftyOne over a database in memory; it reads its settings when it is imported."""
    mongomock = pytest.importorskip("mongomock")
    pymongo = pytest.importorskip("pymongo")
    store = pytest.importorskip("mongomock.store").ServerStore()

    class Client(mongomock.MongoClient):
        _closed = False  # FiftyOne asks pymongo's clients

        def __init__(self, *addresses, **options):
            known = options.keys() - {"appname", "uuidRepresentation"}
            super().__init__(*addresses, _store=store, **{name: options[name] for name in known})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pymongo, "MongoClient", Client)
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        for name, value in (
            ("DO_NOT_TRACK", "1"),
            ("DATABASE_URI", "mongodb://localhost:27017"),
            ("DATABASE_VALIDATION", "false"),
            ("DATABASE_ADMIN", "false"),
        ):
            patch.setenv(f"FIFTYONE_{name}", value)
        yield pytest.importorskip("fiftyone")


@pytest.fixture
def dataset(fo, tmp_path, flag):
    """A data set of three photos in FiftyOne."""
    photos = [flag, np.ascontiguousarray(flag[:, ::-1]), np.ascontiguousarray(flag[: len(flag) // 2])]
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path, photo in zip(paths, photos, strict=True):
        Image.fromarray(photo).save(path)
    dataset = fo.Dataset()
    dataset.add_samples([fo.Sample(filepath=str(path)) for path in paths])
    return dataset, photos


def named(mask, targets):
    """Replace values by names, pixel by pixel."""
    return [[targets.get(int(value)) for value in row] for row in mask]


def expected_names(segmentation):
    names = dict(enumerate(segmentation.classes))
    if segmentation.background is not None:
        del names[0]
    return [[names.get(int(label)) for label in row] for row in segmentation.labels]


@needs_fiftyone
@pytest.mark.parametrize("background_classes", [None, "blue"])
def test_a_mask_has_the_classes(fo, segmenter, flag, background_classes):
    segmentation = segmenter(flag, "red, green", background_classes=background_classes)
    labels = segmentation.labels.copy()
    labels[:3] = 255  # no data
    segmentation = replace(segmentation, labels=labels)
    label = to_fiftyone(segmentation)
    targets = mask_targets(segmentation.classes, background=background_classes is not None)
    assert targets == {1: "red", 2: "green"}
    assert isinstance(label, fo.Segmentation)
    assert label.mask.dtype == np.uint8
    assert named(label.mask, targets) == expected_names(segmentation)


@needs_fiftyone
@pytest.mark.parametrize(("count", "kind"), [(255, np.uint8), (256, np.uint16)])
def test_many_classes_have_two_bytes(fo, segmenter, flag, count, kind):
    segmentation = replace(segmenter(flag, "red, green, blue"), classes=tuple(map(str, range(count))))
    assert to_fiftyone(segmentation).mask.dtype == kind


@needs_fiftyone
def test_objects_have_masks_in_their_boxes(fo, segmenter, flag):
    segmentation = segmenter(flag, "red, green", background_classes="blue")
    objects = to_fiftyone_objects(segmentation, min_area=0)
    height, width = segmentation.labels.shape
    drawn = np.zeros((height, width), int)
    for item in objects.detections:
        left, top, across, down = np.multiply(item.bounding_box, [width, height, width, height])
        box = np.s_[round(top) : round(top + down), round(left) : round(left + across)]
        assert item.mask.shape == drawn[box].shape
        assert (drawn[box][item.mask] == 0).all()
        drawn[box][item.mask] = segmentation.classes.index(item.label)
        assert item.confidence == pytest.approx(
            segmentation.scores[box][item.mask].mean(dtype=np.float64), abs=1e-6
        )
    assert np.array_equal(drawn, segmentation.labels)


@needs_fiftyone
@pytest.mark.parametrize("options", [{}, {"batch_size": 2}])
def test_apply_model_labels_a_data_set(dataset, segmenter, options):
    dataset, photos = dataset
    model = fiftyone_model(segmenter, "red, green, blue")
    dataset.apply_model(model, label_field="classes", skip_failures=False, **options)
    dataset.mask_targets["classes"] = model.mask_targets
    dataset.save()
    for sample, photo in zip(dataset, photos, strict=True):
        found = named(sample["classes"].mask, dataset.mask_targets["classes"])
        assert found == expected_names(segmenter(photo, "red, green, blue"))


@needs_fiftyone
def test_apply_model_finds_objects(dataset, segmenter):
    dataset, photos = dataset
    model = fiftyone_model(segmenter, "red, green", background_classes="blue", objects=True, min_area=0)
    dataset.apply_model(model, label_field="objects", confidence_thresh=0.5, skip_failures=False)
    for sample, photo in zip(dataset, photos, strict=True):
        segmentation = segmenter(photo, "red, green", background_classes="blue")
        expected = [item.name for item in segmentation.objects(min_area=0) if item.score >= 0.5]
        assert [item.label for item in sample["objects"].detections] == expected


@needs_fiftyone
def test_the_example_draws_the_street(fo, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path))
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    shutil.copy(EXAMPLES / "street.jpg", photos)
    runpy.run_path(str(EXAMPLES / "with_fiftyone.py"))["main"](str(photos), str(out))
    assert "car: " in capsys.readouterr().out
    with Image.open(EXAMPLES / "street.jpg") as before, Image.open(out / "street.jpg") as after:
        assert after.size == before.size
        assert after.tobytes() != before.tobytes()


@needs_fiftyone
def test_bad_classes_and_areas_are_refused(fo, segmenter, flag):
    with pytest.raises(ClassesError):
        fiftyone_model(segmenter, "red, red")
    with pytest.raises(OptionError, match="min_area"):
        to_fiftyone_objects(segmenter(flag, "red, green"), min_area=2)


def test_without_fiftyone_its_extra_is_named(segmenter, flag, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "fiftyone", None)
    segmentation = segmenter(flag, "red, green")
    for call in (
        lambda: to_fiftyone(segmentation),
        lambda: to_fiftyone_objects(segmentation),
        lambda: fiftyone_model(segmenter, "red, green"),
    ):
        with pytest.raises(OutputError, match=r"pip install '\.\[fiftyone\]'"):
            call()
