"""The kernels around the vision engine against their references and the host's own code.

Run by tests/kernels/test_interpreted.py: in Triton's interpreter, or with OVSDINO_KERNELS_ON=cuda on a GPU.
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

from ovsdino.kernels import device_kernels as kernels
from ovsdino.kernels import reference
from ovsdino_export.engines.kernels import SCORES_BLOCK, TILE, WINDOW_BLOCK
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.device.plan import plan_photo
from ovsdino_runtime.geometry.merge import merge_argmax, merge_geometry
from ovsdino_runtime.geometry.preprocess import Preprocessing, cut_windows, fit_size, normalise, resize_photo
from ovsdino_runtime.geometry.windows import WindowPolicy, plan_windows

DEVICE = os.environ.get("OVSDINO_KERNELS_ON", "cpu")
SIZE, STRIDE, GRID = 32, 20, (3, 4)
LIMITS = Preprocessing(SIZE, 4 * SIZE)
PHOTOS = [(40, 57), (1, 1), (9, 90), (32, 32), (101, 60)]


@pytest.fixture(scope="module")
def manifest():
    manifest = load_bundle(find_bundle("nano")).manifest
    vision = manifest.graphs["vision"]
    features = replace(vision.outputs[0], shape=("batch", 5, *GRID))
    graphs = manifest.graphs | {"vision": replace(vision, outputs=(features,))}
    return replace(manifest, preprocessing=LIMITS, windows=WindowPolicy(SIZE, STRIDE), graphs=graphs)


def noise(*shape, seed=0):
    values = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def put(array):
    return torch.from_numpy(np.ascontiguousarray(array)).to(DEVICE)


def windows_of(photo):
    resized = fit_size(*photo, short_side=SIZE, long_side=4 * SIZE)
    return resized, plan_windows(*resized, size=SIZE, stride=STRIDE)


def launch_windows(plan, photo, first, batch):
    pixels = torch.full((batch, 3, SIZE, SIZE), float("nan"), device=DEVICE)
    names = [
        f"{side}_{part}" for side in ("row", "column") for part in ("lows", "shares", "starts", "weights")
    ]
    tables = [put(plan.tables[f"cut.{name}"]) for name in (*names, "colours")]
    taps = [plan.tables[f"cut.{side}_weights"].shape[1] for side in ("row", "column")]
    numbers = (photo.shape[1], plan.across, first, 1 + plan.stretched, *taps, int(plan.antialias), SIZE)
    grid = (-(-(SIZE**2) // WINDOW_BLOCK), batch)
    kernels.photo_windows[grid](put(photo), *tables, *numbers, pixels, WINDOW_BLOCK)
    return pixels.cpu().numpy()


@pytest.mark.parametrize("antialias", [False, True])
@pytest.mark.parametrize("size", PHOTOS, ids=str)
def test_photo_windows_are_the_hosts(manifest, size, antialias):
    photo = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    resized, windows = windows_of(size)
    small = resize_photo(photo, *resized, antialias=antialias)
    expected = cut_windows(normalise(small, LIMITS), windows, SIZE)
    plan = plan_photo(manifest, size, antialias=antialias, tile=TILE[:2])
    actual = launch_windows(plan, photo, 0, plan.windows)
    level = 1 / 255 / min(LIMITS.std)
    assert np.abs(actual - expected).max() <= 1.001 * level
    assert (np.abs(actual - expected) < 1e-4).mean() > 0.95  # halves may be rounded the other way
    if plan.windows > 1:  # a later batch is cut where it belongs
        np.testing.assert_array_equal(launch_windows(plan, photo, 1, 1)[0], actual[1])


def test_photo_windows_are_their_reference(manifest):
    photo = np.random.default_rng(1).integers(0, 256, (23, 70, 3), dtype=np.uint8)
    plan = plan_photo(manifest, (23, 70), antialias=True, tile=TILE[:2])
    parts = ("lows", "shares", "starts", "weights")
    rows, columns = (
        reference.Side(*(torch.from_numpy(plan.tables[f"cut.{side}_{part}"]) for part in parts))
        for side in ("row", "column")
    )
    colours = torch.from_numpy(plan.tables["cut.colours"])
    expected = reference.photo_windows(
        torch.from_numpy(photo), rows, columns, colours, size=SIZE, antialias=True
    )
    np.testing.assert_allclose(launch_windows(plan, photo, 0, plan.windows), expected, atol=1e-5)


@pytest.mark.parametrize("value", [0, 255])
def test_photo_windows_of_one_colour(manifest, value):
    photo = np.full((45, 35, 3), value, np.uint8)
    plan = plan_photo(manifest, (45, 35), antialias=True, tile=TILE[:2])
    expected = (value / 255 - np.array(LIMITS.mean)) / np.array(LIMITS.std)
    actual = launch_windows(plan, photo, 0, plan.windows)
    np.testing.assert_allclose(actual, np.broadcast_to(expected[:, None, None], actual.shape), atol=1e-5)


def launch_scores(features, text, first, classes):
    windows, channels, area = features.shape[0], features.shape[1], features[0, 0].size
    scores = torch.full((classes, windows, *features.shape[2:]), float("nan"), device=DEVICE)
    blocks = -(-area // SCORES_BLOCK[1]), -(-classes // SCORES_BLOCK[0]), windows
    numbers = (first, classes, windows, channels, area)
    kernels.cosine_scores[blocks](put(features), put(text), *numbers, scores, *SCORES_BLOCK)
    return scores


@pytest.mark.parametrize(
    ("shape", "classes", "first"), [((3, 37, 9, 8), 23, 5), ((1, 1, 1, 1), 1, 0), ((2, 64, 4, 4), 16, 0)]
)
def test_cosine_scores(shape, classes, first):
    features, text = noise(*shape), noise(first + classes, shape[1], seed=1)
    expected = reference.cosine_scores(torch.from_numpy(features), torch.from_numpy(text[first:]))
    torch.testing.assert_close(launch_scores(features, text, first, classes).cpu(), expected)


def launch_merge(plan, scores, head, *, background=False, at_once=1000):
    height, width = plan.photo
    best = torch.full((height, width), float("nan"), device=DEVICE)
    labels = torch.full((height, width), 9999, dtype=torch.uint16, device=DEVICE)
    confidence = torch.full((height, width), float("nan"), dtype=torch.float16, device=DEVICE)
    names = [f"{side}_{part}" for side in ("row", "column") for part in ("nodes", "weights")]
    tables = [put(plan.tables[f"merge.{name}"]) for name in names]
    counts = [plan.tables[f"merge.{side}_nodes"].shape[1] for side in ("row", "column")]
    grid = (-(-width // TILE[1]), -(-height // TILE[0]))
    for first in range(0, len(scores), at_once):
        some = scores[first : first + at_once].contiguous()
        last = first + len(some) == len(scores)
        numbers = (first, len(some), int(last), int(background), plan.plane, *counts, height, width)
        outputs = (best, labels, confidence)
        kernels.merge_argmax[grid](some, *tables, put(np.float32(head)), *numbers, *outputs, *TILE)
    return best.cpu().numpy(), labels.cpu().numpy(), confidence.cpu().numpy()


@pytest.mark.parametrize("at_once", [1000, 3])
@pytest.mark.parametrize("size", PHOTOS, ids=str)
def test_merge_argmax_is_the_hosts(manifest, size, at_once):
    resized, windows = windows_of(size)
    features, text = noise(len(windows), 5, *GRID), noise(7, 5, seed=1)
    geometry = merge_geometry(windows, GRID, resized=resized, photo=size)
    expected, cosine = merge_argmax(features, text, geometry)
    plan = plan_photo(manifest, size, antialias=True, tile=TILE[:2])
    scores = reference.cosine_scores(torch.from_numpy(features), torch.from_numpy(text)).to(DEVICE)
    best, labels, _ = launch_merge(plan, scores, [10, -2, -1], at_once=at_once)
    np.testing.assert_allclose(best, cosine, atol=1e-6)
    assert (labels == expected).mean() >= 0.995


def test_merge_argmax_decides_for_the_background(manifest):
    plan = plan_photo(manifest, (35, 20), antialias=True, tile=TILE[:2])
    scores = torch.from_numpy(noise(4, plan.plane)).reshape(4, -1).to(DEVICE)
    sure = launch_merge(plan, scores, [10, -2, -1])
    confidence = 1 / (1 + np.exp(-(10 * sure[0] - 2)))
    np.testing.assert_allclose(sure[2], confidence, atol=1e-3)
    threshold = float(np.median(confidence))
    _, labels, doubt = launch_merge(plan, scores, [10, -2, threshold], background=True)
    unsure = labels == 0
    assert 0.3 < unsure.mean() < 0.7
    np.testing.assert_array_equal(labels[~unsure], sure[1][~unsure] + 1)
    np.testing.assert_allclose(doubt, np.where(unsure, 1 - confidence, confidence), atol=1e-3)


@pytest.mark.filterwarnings("ignore:invalid value", "ignore:overflow", "ignore:All-NaN")  # numpy's
def test_merge_argmax_of_equal_scores_nans_and_great_ones(manifest):
    plan = plan_photo(manifest, (20, 35), antialias=True, tile=TILE[:2])
    same = torch.ones(3, plan.plane, device=DEVICE)
    assert not launch_merge(plan, same, [1, 0, -1], at_once=2)[1].any()  # the first of equals
    scores = torch.from_numpy(noise(3, plan.plane)).to(DEVICE)
    great = launch_merge(plan, 1e30 * scores, [1, 0, -1])[1]
    np.testing.assert_array_equal(great, launch_merge(plan, scores, [1, 0, -1])[1])
    scores[1] = float("nan")
    assert not (launch_merge(plan, scores, [1, 0, -1])[1] == 1).any()


def test_merge_argmax_is_its_reference(manifest):
    plan = plan_photo(manifest, (50, 70), antialias=True, tile=TILE[:2])
    scores = torch.from_numpy(noise(5, plan.plane, seed=3))
    names = [f"{side}_{part}" for side in ("row", "column") for part in ("nodes", "weights")]
    tables = [torch.from_numpy(plan.tables[f"merge.{name}"]) for name in names]
    best, labels = (tensor[:50, :70].numpy() for tensor in reference.merge_argmax(scores, *tables))
    actual = launch_merge(plan, scores.to(DEVICE), [1, 0, -1])
    np.testing.assert_allclose(actual[0], best, atol=1e-6)
    assert (actual[1] == labels).mean() > 0.995
