"""The pipeline of dinov3.seg on the processor, against the torch network's own `predict` and plain loops."""

import json
import threading
import tracemalloc
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovsdino.dinov3seg.correlation import best_classes, correlate, text_halves
from ovsdino.dinov3seg.local_global import fuse_features
from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.trace import Trace
from ovsdino_runtime.geometry.merge import BestClass
from ovsdino_runtime.pipelines.dinov3seg_stages import ChooseClasses, FuseFeatures, spread
from tests.dinov3seg.small import SMALL
from tests.runtime.dinov3seg_cases import PATCH, build, manifest_of, open_torch, photo_of, reference


def known(text) -> Future:
    future: Future = Future()
    future.set_result(text)
    return future


def words(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 384)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    return build()


INFERENCE = SMALL.inference


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"prior": None},
        {"early": False},
        {"late": False},
        {"halves": ("local",)},
        {"inference": replace(INFERENCE, whole="window", unit_length=False)},
    ],
    ids=lambda changes: "-".join(changes) or "all",
)
def test_labels_and_confidence_are_those_of_the_torch_form(changes):
    network, photo, text = build(**changes), photo_of(117, 203), words(6)
    found = open_torch(network).label(photo, known(text), threshold=None, scores=True)
    expected, confidence = reference(network, photo, text)
    assert (found.labels == expected).mean() >= 0.999
    assert len(np.unique(expected)) > 2
    np.testing.assert_allclose(found.scores, confidence, atol=2e-3)  # half precision near 1


@pytest.mark.parametrize("size", [(160, 160), (40, 300), (333, 97)])
def test_photos_of_any_shape(network, size):
    photo, text = photo_of(*size, seed=1), words(5)
    found = open_torch(network).label(photo, known(text), threshold=None, scores=True)
    assert found.labels.shape == size
    assert (found.labels == reference(network, photo, text)[0]).mean() >= 0.999


@pytest.mark.parametrize("count", [8, 9, 60])
def test_of_many_classes_the_best_are_refined(network, count):
    """The network's pad_length is 8."""
    photo, text = photo_of(90, 120), words(count)
    found = open_torch(network).label(photo, known(text), threshold=None, scores=True)
    assert (found.labels == reference(network, photo, text)[0]).mean() >= 0.999
    with torch.no_grad():
        features = torch.from_numpy(open_torch(network).encode(photo).features)
        costs = correlate(features, text_halves(torch.from_numpy(text), network.config))
        chosen = best_classes(costs, torch.ones(count, dtype=torch.bool), 8)[0]
    assert set(np.unique(found.labels)) <= set(chosen.tolist())
    choose = ChooseClasses(manifest_of(network).dinov3seg)
    assert choose(features.numpy(), text).tolist() == sorted(chosen.tolist())


def test_permuted_names_permute_the_labels(network):
    photo, text = photo_of(90, 120), words(20)
    order = np.random.default_rng(1).permutation(20)
    way = open_torch(network)
    plain = way.label(photo, known(text), threshold=None, scores=True)
    mixed = way.label(photo, known(text[order]), threshold=None, scores=True)
    assert (order[mixed.labels] == plain.labels).mean() >= 0.999
    np.testing.assert_allclose(mixed.scores, plain.scores, atol=2e-3)


def test_what_no_class_fits_is_background(network):
    photo, text = photo_of(90, 120), words(6)
    way = open_torch(network)
    plain = way.label(photo, known(text), threshold=None, scores=True)
    threshold = float(np.median(plain.scores))
    found = way.label(photo, known(text), threshold=threshold, scores=True)
    unsure = found.labels == 0
    assert 0.4 < unsure.mean() < 0.6
    assert (found.labels[~unsure] == plain.labels[~unsure] + 1).all()
    np.testing.assert_allclose(found.scores[unsure], 1 - plain.scores[unsure], atol=1e-3)
    assert way.label(photo, known(text), threshold=None, scores=False).scores is None


def test_overlapping_windows_are_averaged_then_with_the_whole(network):
    view = np.random.default_rng(0).normal(size=(1, 3, 160, 160)).astype(np.float32)
    manifest = manifest_of(network)
    with torch.no_grad():
        expected = fuse_features(network, torch.from_numpy(view)).numpy()
        windows = open_torch(network).prepare.plan(view[0].transpose(1, 2, 0))
        crops = [view[:, :, w.top : w.top + w.height, w.left : w.left + w.width] for w in windows]
        local = network.vlm.vision(torch.from_numpy(np.concatenate(crops))).numpy()
        whole = network.vlm.vision(torch.from_numpy(view)).numpy()
    fuse = FuseFeatures(manifest.dinov3seg, PATCH)
    np.testing.assert_allclose(fuse(windows, local, whole), expected, atol=1e-5)
    alone = whole / np.linalg.norm(whole, axis=1, keepdims=True)
    np.testing.assert_allclose(fuse(windows, None, whole), alone, atol=1e-6)


def test_without_windows_the_photo_is_seen_only_as_a_whole(network):
    photo, text = photo_of(90, 120), words(6)
    way = open_torch(network, RuntimeOptions(inference="whole"))
    found = way.label(photo, known(text), threshold=None, scores=True)
    assert "vision" not in found.timings
    pixels = torch.from_numpy(way.encode(photo).prepared.resized).permute(2, 0, 1)[None]
    mean, std = (torch.tensor(row)[:, None, None] * 255 for row in (SMALL.vlm.mean, SMALL.vlm.std))
    with torch.no_grad():
        whole = network.vlm.vision((pixels - mean) / std)
        alone = network.refine_patches((pixels - mean) / std, whole / whole.norm(dim=1, keepdim=True))
    np.testing.assert_allclose(way.encode(photo).features, alone.numpy(), atol=1e-4)
    windowed = open_torch(network).encode(photo).features
    assert np.abs(windowed - way.encode(photo).features).max() > 0.01


def test_probabilities_go_by_the_view_to_the_photo():
    probabilities = torch.rand(5, 40, 40, generator=torch.Generator().manual_seed(0))
    best = BestClass(spread(160, 40, (97, 203)))
    best.take(probabilities.permute(1, 2, 0).numpy(), first=0)
    view = torch.nn.functional.interpolate(probabilities[None], (160, 160), mode="bilinear")
    full = torch.nn.functional.interpolate(view, (97, 203), mode="bilinear")[0]
    np.testing.assert_allclose(best.scores, full.amax(0).numpy(), atol=1e-5)
    assert (best.labels == full.argmax(0).numpy()).mean() > 0.999


def test_guidance_runs_beside_the_windows(network, tmp_path):
    with Trace(tmp_path / "trace.json") as trace:
        way = open_torch(network, RuntimeOptions(trace=trace))
        begun = threading.Event()
        look, guide = way.vision.function, way.stages["guidance"].engine.function

        def vision(pixels):
            assert begun.wait(10), "guidance waits for vision"
            return look(pixels)

        def guidance(pixels):
            begun.set()
            return guide(pixels)

        way.vision.function, way.stages["guidance"].engine.function = vision, guidance
        found = way.label(photo_of(90, 120), known(words(3)), threshold=None, scores=True)
        way.close()
    events = json.loads((tmp_path / "trace.json").read_text())
    tracks = {event["args"]["name"]: event["tid"] for event in events if event["ph"] == "M"}
    graph = next(event for event in events if event["name"] == "guidance graph")
    image_features = next(event for event in events if event["name"] == "vision")
    assert graph["tid"] == tracks["guidance_0"] != image_features["tid"]
    assert graph["ts"] < image_features["ts"] + image_features["dur"]
    stages = ["resize", "vision", "whole", "refine", "guidance", "text", "late", "decoder", "merge"]
    assert list(found.timings) == stages


def test_memory_does_not_grow_with_the_number_of_classes(network):
    way = open_torch(network)
    image_features = way.encode(photo_of(480, 640))

    def peak(count: int) -> int:
        text = known(words(count))
        tracemalloc.start()
        way.segment(image_features, text, threshold=None, scores=True)
        max_count = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return max_count

    peak(8)
    assert peak(4000) < peak(40) + 2e6  # a few numbers a class; the embeddings are the caller's


def test_one_view_serves_many_word_lists_of_its_own_model(network):
    photo, way = photo_of(90, 120), open_torch(network)
    image_features = way.encode(photo)
    for count in (3, 12):
        text = words(count, seed=count)
        found = way.segment(image_features, known(text), threshold=None, scores=True)
        assert (found.labels == way.label(photo, known(text), threshold=None, scores=True).labels).all()
    with pytest.raises(PhotoError, match="another model encoded this photo"):
        way.segment(replace(image_features, model="other"), known(words(3)), threshold=None, scores=True)
