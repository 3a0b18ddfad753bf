"""Local-global inference and the zero-shot protocol, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as vision_functional

from ovsdino.dinov3seg import local_global, zero_shot
from ovsdino.dinov3seg.config import Dinov3segConfig, LocalGlobalConfig, Patches, ZeroShotProtocol
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import PROTOCOLS, VITL16
from ovsdino.dinov3seg.tokenizer import tokenize
from ovsdino.dinov3seg.vlm import Vlm
from ovsdino_runtime.geometry.windows import plan_windows
from ovsdino_runtime.text.vocabulary import load_templates
from tests.dinov3seg.small import SMALL, SMALL_CLIP, SMALL_VLM, randomise


def test_the_papers_view_has_four_windows_on_the_patch_grid() -> None:
    how = VITL16.inference
    assert how == LocalGlobalConfig(view=640, window=384, stride=256, fusion="features")
    windows = plan_windows(how.view, how.view, size=how.window, stride=how.stride)
    assert [(window.top, window.left) for window in windows] == [(0, 0), (0, 256), (256, 0), (256, 256)]
    assert all(value % 16 == 0 for window in windows for value in (window.top, window.left, window.height))
    cover = local_global.average_windows([torch.ones(1, 1, 384, 384)] * 4, windows, 640)
    assert (cover == 1).all()


@torch.no_grad()
@pytest.mark.parametrize("whole", ["view", "window"])
@pytest.mark.parametrize("unit_length", [True, False])
def test_features_are_averaged_over_windows_then_with_the_whole(
    model: Dinov3Seg, whole: str, unit_length: bool
) -> None:
    how = replace(model.config.inference, whole=whole, unit_length=unit_length)  # type: ignore[arg-type]
    model.config = replace(model.config, inference=how)
    view = torch.randn(2, 3, 160, 160)  # a grid of 10, windows of 6 at 0 and 4
    local = torch.zeros(2, 192, 10, 10)
    parts = {(i, j): model.vlm.vision(view[:, :, i : i + 96, j : j + 96]) for i in (0, 64) for j in (0, 64)}
    for row in range(10):
        for column in range(10):
            seen = [
                part[:, :, row - i // 16, column - j // 16]
                for (i, j), part in parts.items()
                if 0 <= row - i // 16 < 6 and 0 <= column - j // 16 < 6
            ]
            local[:, :, row, column] = torch.stack(seen).mean(0)
    if whole == "view":
        overall = model.vlm.vision(view)
    else:
        small = F.interpolate(view, (96, 96), mode="bilinear", align_corners=False)
        overall = F.interpolate(model.vlm.vision(small), (10, 10), mode="bilinear", align_corners=False)
    if unit_length:
        local, overall = F.normalize(local, dim=1), F.normalize(overall, dim=1)
    torch.testing.assert_close(
        local_global.fuse_features(model, view), (local + overall) / 2, rtol=1e-4, atol=1e-5
    )


@torch.no_grad()
def test_fused_features_are_refined_and_decoded_once(model: Dinov3Seg) -> None:
    photo, text = torch.randn(1, 3, 120, 200), torch.randn(5, 384)
    view = F.interpolate(photo, (160, 160), mode="bilinear", align_corners=False)
    patches = local_global.fuse_features(model, view)
    patches = model.early[0](model.to_imagenet(view), patches)
    logits = model.decode(patches, model.see_prior(view), text=text)
    expected = F.interpolate(logits.sigmoid(), (160, 160), mode="bilinear", align_corners=False)
    torch.testing.assert_close(local_global.predict(model, photo, text), expected)


@torch.no_grad()
def test_probabilities_can_be_fused_instead(model: Dinov3Seg) -> None:
    model.config = replace(model.config, inference=replace(model.config.inference, fusion="probabilities"))
    photo, text = torch.randn(1, 3, 160, 160), torch.randn(5, 384)

    def segment(pixels: Tensor, side: int) -> Tensor:
        return F.interpolate(
            model(pixels, text).sigmoid(), (side, side), mode="bilinear", align_corners=False
        )

    total, count = torch.zeros(1, 5, 160, 160), torch.zeros(160, 160)
    for i in (0, 64):
        for j in (0, 64):
            total[:, :, i : i + 96, j : j + 96] += segment(photo[:, :, i : i + 96, j : j + 96], 96)
            count[i : i + 96, j : j + 96] += 1
    small = F.interpolate(photo, (96, 96), mode="bilinear", align_corners=False)
    expected = (total / count + segment(small, 160)) / 2
    torch.testing.assert_close(local_global.predict(model, photo, text), expected, rtol=1e-4, atol=1e-5)


def test_labels_are_the_best_class_of_each_pixel() -> None:
    scores = torch.zeros(1, 3, 2, 2)
    scores[0, 2, :, 0], scores[0, 1, :, 1] = 1, 1
    assert local_global.labels(scores, 4, 4)[0].tolist() == [[2, 2, 1, 1]] * 4


PROTOCOL = ZeroShotProtocol(short_side=72, window=56, stride=24, templates="a photo of a {}.")


def official_tokens(vision: DinoTxtVision, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return class token, head's and backbone's patches, as ``get_class_and_patch_tokens`` does."""
    x = vision.backbone.forward_features(pixels)  # type: ignore[operator]
    class_token, registers, patches = x[:, 0], x[:, 1:5], x[:, 5:]
    image_tokens = vision.head(torch.cat([class_token.unsqueeze(1), registers, patches], dim=1))
    return image_tokens[:, 0], image_tokens[:, 5:], patches


@pytest.mark.parametrize("chosen", ["head", "backbone"])
@torch.no_grad()
def test_the_zero_shot_protocol_equals_its_notebook(chosen: Patches) -> None:
    """Window by window: stretch to whole patches, cosine, upsample, softmax of the raw cosine, average."""
    torch.manual_seed(0)
    vlm = Vlm(SMALL_VLM).eval()
    randomise(vlm.vision.head)
    assert isinstance(vlm.vision, DinoTxtVision)
    protocol = replace(PROTOCOL, patches=chosen)
    photo = torch.randn(3, 72, 101)
    text = F.normalize(torch.randn(4, 192), dim=-1)
    total, count = torch.zeros(4, 72, 101), torch.zeros(72, 101)
    for top in (0, 16):  # 24 would hang over: the last window moves inward
        for left in (0, 24, 45):
            window = photo[:, top : top + 56, left : left + 56]
            stretched = F.interpolate(window[None], (64, 64), mode="bicubic", align_corners=False)
            _, of_head, of_backbone = official_tokens(vlm.vision, stretched)
            tokens = of_head if chosen == "head" else of_backbone  # the notebook as published: the latter
            patches = F.normalize(tokens.reshape(1, 4, 4, -1), dim=-1)
            cosines = torch.einsum("cd,bhwd->bchw", text, patches)
            up = F.interpolate(cosines, (56, 56), mode="bilinear", align_corners=False)[0]
            total[:, top : top + 56, left : left + 56] += up.softmax(0)
            count[top : top + 56, left : left + 56] += 1
    found = zero_shot.predict(vlm, photo, text=text, protocol=protocol)
    torch.testing.assert_close(found, total / count, rtol=1e-4, atol=1e-6)
    other = replace(protocol, patches="backbone" if chosen == "head" else "head")
    assert (zero_shot.predict(vlm, photo, text=text, protocol=other) - found).abs().max() > 1e-3


def test_the_backbones_patches_need_a_vision_head() -> None:
    vlm, protocol = Vlm(SMALL_CLIP), replace(PROTOCOL, patches="backbone")
    with pytest.raises(ValueError, match="small-clip has no vision head, so patches must be 'head'"):
        zero_shot.encode_patches(vlm, torch.zeros(1, 3, 64, 64), protocol)


def test_the_preset_carries_the_official_protocol() -> None:
    protocol = PROTOCOLS["dinotxt-vitl16"]
    assert (protocol.short_side, protocol.window, protocol.stride) == (512, 384, 192)
    assert protocol.half == "local"
    assert len(load_templates(protocol.templates)) == 80


@torch.no_grad()
def test_class_embeddings_are_means_of_the_local_half() -> None:
    vlm = Vlm(replace(SMALL_VLM, text_vocabulary=49408)).eval()
    protocol = replace(PROTOCOL, templates="imagenet80")
    found = zero_shot.embed_classes(vlm, ["cat", "tree"], protocol)
    prompts = [template.format("tree") for template in load_templates("imagenet80")]
    halves = F.normalize(vlm.text(tokenize(prompts, vlm.config))[:, 192:], dim=-1)
    torch.testing.assert_close(found[1], F.normalize(halves.mean(0), dim=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("width", "height"), [(150, 100), (100, 151), (72, 90)])
def test_a_photo_is_read_as_torchvision_does(width: int, height: int) -> None:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    photo = Image.fromarray(values)
    size = [72, int(72 * width / height)] if height < width else [int(72 * height / width), 72]
    resized = vision_functional.resize(photo, size, vision_functional.InterpolationMode.BICUBIC)
    expected = vision_functional.normalize(
        vision_functional.to_tensor(resized), list(SMALL_VLM.mean), list(SMALL_VLM.std)
    )
    torch.testing.assert_close(
        zero_shot.read_photo(photo, SMALL_VLM, PROTOCOL), expected, rtol=1e-4, atol=1e-5
    )


def test_sizes_off_the_patch_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="multiples of patch_size=16, got 250"):
        replace(SMALL, inference=LocalGlobalConfig(stride=250))
    assert isinstance(SMALL, Dinov3segConfig)
