"""Masks at full size against mmsegmentation's loop in torch."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovsdino_benchmarks.datasets.protocol import own_protocol
from ovsdino_benchmarks.model_variants import full_masks
from ovsdino_benchmarks.model_variants.full_masks import merge_masks, put_background, resize_aligned
from ovsdino_benchmarks.model_variants.models import ModelSpec
from ovsdino_benchmarks.quality.labeler import open_labeller
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.geometry.preprocess import fit_size
from ovsdino_runtime.geometry.windows import plan_windows
from ovsdino_runtime.text.vocabulary import Vocabulary

RESIZED, PHOTO, SIZE, STRIDE = (32, 50), (61, 97), 32, 16


def slide_inference(masks, *, align_corners):
    """mmseg's accumulation, all classes at full size: (1, N, h, w) of each window -> (1, N, H, W)."""
    windows = plan_windows(*RESIZED, size=SIZE, stride=STRIDE)
    preds, count = torch.zeros(1, masks[0].shape[1], *RESIZED), torch.zeros(1, 1, *RESIZED)
    for mask, w in zip(masks, windows, strict=True):
        full = F.interpolate(mask, (w.height, w.width), mode="bilinear", align_corners=align_corners)
        right, bottom = RESIZED[1] - w.left - w.width, RESIZED[0] - w.top - w.height
        preds += F.pad(full, (w.left, right, w.top, bottom))
        count[:, :, w.top : w.top + w.height, w.left : w.left + w.width] += 1
    assert (count > 0).all()
    return F.interpolate(preds / count, PHOTO, mode="bilinear", align_corners=False)


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("at_once", [2, 100])
def test_masks_merge_as_mmsegs_do(align_corners, at_once, monkeypatch):
    monkeypatch.setattr(full_masks, "CLASSES_AT_ONCE", at_once)
    torch.manual_seed(0)
    windows = plan_windows(*RESIZED, size=SIZE, stride=STRIDE)
    masks = [torch.rand(1, 5, 4, 6) for _ in windows]
    scores = slide_inference(masks, align_corners=align_corners)[0]
    labels, best = merge_masks(
        [mask[0].permute(1, 2, 0).numpy() for mask in masks],
        windows,
        resized=RESIZED,
        photo=PHOTO,
        align_corners=align_corners,
    )
    np.testing.assert_allclose(best, scores.amax(0), atol=4e-6)  # FP32 taps: measured 1.3e-6
    top = scores.topk(2, dim=0).values
    clear = ((top[0] - top[1]) > 1e-5).numpy()
    assert (labels == scores.argmax(0).numpy())[clear].all()
    assert clear.mean() > 0.99


def test_corners_stay_where_they_are():
    image = np.random.default_rng(0).random((3, 5, 2), np.float32)
    expected = F.interpolate(
        torch.from_numpy(image).permute(2, 0, 1)[None], (7, 5), mode="bilinear", align_corners=True
    )
    np.testing.assert_allclose(resize_aligned(image, 7, 5), expected[0].permute(1, 2, 0), atol=1e-6)
    np.testing.assert_array_equal(
        resize_aligned(image, 7, 11)[[0, -1]][:, [0, -1]], image[[0, -1]][:, [0, -1]]
    )


def test_the_background_wins_ties():
    labels, scores = np.array([[0, 1, 1]], np.uint16), np.array([[0.4, 0.5, 0.6]], np.float32)
    assert put_background(labels, scores, 0.5).tolist() == [[0, 0, 2]]
    assert put_background(labels, scores, None) is labels


@pytest.mark.parametrize("average", ["logits", "probabilities"])
@pytest.mark.parametrize("background", [None, 0.7])
def test_a_bundle_averages_what_the_protocol_says(tiny, stripes, average, background):
    own = replace(own_protocol(load_bundle(tiny).manifest), stride=STRIDE, antialias=False)
    protocol = replace(own, average=average, align_corners=True)
    labeller = open_labeller(ModelSpec(tiny, threads=1), protocol)
    vocabulary = Vocabulary((("red",), ("green",), ("blue",)), background=background is not None)
    file = stripes / "images" / "0.png"
    photo = load_photo(file)
    size = fit_size(*photo.shape[:2], short_side=SIZE, long_side=4 * SIZE)
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    image = (F.interpolate(image, size, mode="bilinear") + 0.5).floor()
    text = torch.from_numpy(labeller.encode_text(vocabulary))
    preds, count = torch.zeros(1, 3, *size), torch.zeros(1, 1, *size)
    for w in plan_windows(*size, size=SIZE, stride=STRIDE):
        part = (..., slice(w.top, w.top + w.height), slice(w.left, w.left + w.width))
        patches = F.avg_pool2d(image[part] / 127.5 - 1, 8)  # what the tiny graph computes, before unit length
        features = torch.cat([patches, torch.zeros(1, 1, *patches.shape[2:])], 1)
        masks = 10 * torch.einsum("bchw,nc->bnhw", F.normalize(features, dim=1), text) - 2.5
        masks = masks.sigmoid() if average == "probabilities" else masks
        preds[part] += F.interpolate(masks, (w.height, w.width), mode="bilinear", align_corners=True)
        count[part] += 1
    scores = F.interpolate(preds / count, photo.shape[:2], mode="bilinear", align_corners=False)[0]
    scores = scores if average == "probabilities" else scores.sigmoid()
    if background is not None:
        scores = torch.cat([torch.full((1, *scores.shape[1:]), background), scores])
    top = scores.topk(2, dim=0).values
    clear = ((top[0] - top[1]) > 1e-5).numpy()
    found = labeller.label(load_photo(file), vocabulary, background).labels
    assert (found == scores.argmax(0).numpy())[clear].all()
    assert clear.mean() > 0.99
