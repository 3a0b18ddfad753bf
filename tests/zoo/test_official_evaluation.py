"""Talk2DINO end to end against its official evaluation, restated step by step on random weights."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ovsdino.zoo import checkpoint
from ovsdino.zoo.background_cleaning import clean_background
from ovsdino.zoo.class_embeddings import embed_classes
from ovsdino.zoo.config import TALK2DINO
from ovsdino.zoo.pamr import refine_masks
from ovsdino_benchmarks.datasets import protocol as protocols
from ovsdino_benchmarks.model_variants.talk2dino import Talk2Dino
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.text.vocabulary import Vocabulary, load_templates
from tests.zoo import official_files as official
from tests.zoo.official_files import SMALL

TEMPLATES = (  # sub_imagenet_template of datasets/templates.py
    "itap of a {}.",
    "a bad photo of a {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)
NAMES = ("cat", "potted plant", "tvmonitor", "sky", "grass")
SIDE, STRIDE, HEADS, GLOBAL_TOKENS, LAMBDA = 56, 28, 3, 5, 0.2


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setitem(TALK2DINO, SMALL.name, SMALL)
    torch.save(official.whole(), tmp_path / "whole.pth")
    return checkpoint.load(SMALL.name, [tmp_path / "whole.pth"])


def build_text_embedding(text: nn.Module, names: tuple[str, ...]) -> Tensor:
    """Tokens (classes, templates), CLIP's features, their mean, the projection, then unit length."""
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    tokens = torch.stack([tokenizer([t.format(name) for t in TEMPLATES]) for name in names])  # (N, T, 77)
    raw = text.tower.encode_raw(tokens.flatten(0, 1)).unflatten(0, (len(names), len(TEMPLATES)))
    mean = raw.mean(dim=1).float()
    weights = official.projection()
    hidden = torch.tanh(F.linear(mean, weights["linear_layer.weight"], weights["linear_layer.bias"]))
    projected = F.linear(hidden, weights["hidden_layers.0.weight"], weights["hidden_layers.0.bias"])
    return projected / projected.norm(dim=-1, keepdim=True)


class Pamr:
    """The official module's order: affinities by three fixed convolutions, then repeated averages."""

    def __init__(self, dilations: tuple[int, ...]) -> None:
        self.dilations = dilations
        places = [(row, column) for row in range(3) for column in range(3)]
        around = [place for place in places if place != (1, 1)]
        self.copy = torch.stack([self.kernel(place) for place in around])  # (8, 1, 3, 3)
        self.difference = torch.stack([self.kernel((1, 1)) - self.kernel(place) for place in around])
        self.all = torch.stack([self.kernel(place) for place in places])  # (9, 1, 3, 3)

    @staticmethod
    def kernel(place: tuple[int, int]) -> Tensor:
        kernel = torch.zeros(1, 3, 3)
        kernel[0][place] = 1
        return kernel

    def affinity(self, x: Tensor, kernel: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        x = x.reshape(batch * channels, 1, height, width)
        parts = [F.conv2d(F.pad(x, [d] * 4, mode="replicate"), kernel, dilation=d) for d in self.dilations]
        return torch.cat(parts, 1).view(batch, channels, -1, height, width)

    def __call__(self, image: Tensor, mask: Tensor, iterations: int) -> Tensor:
        std = self.affinity(image, self.all).std(2, keepdim=True)
        x = -self.affinity(image, self.difference).abs() / (1e-8 + 0.1 * std)
        x = F.softmax(x.mean(1, keepdim=True), 2)
        for _ in range(iterations):
            mask = (self.affinity(mask, self.copy) * x).sum(2)
        return mask


def similarity_assignment_weighted(mask: Tensor, feat: Tensor, maps: Tensor, text: Tensor) -> Tensor:
    """The official cleaning: repeats instead of products, minimum and maximum as numbers."""
    batch, classes, h, w = mask.shape
    places = maps.shape[2]
    feat = feat.reshape(batch, -1, places)
    embed = (maps.unsqueeze(2) * feat.unsqueeze(1)).mean(dim=-1)
    embed = (embed / embed.norm(dim=-1, keepdim=True)).permute(0, 2, 1)  # (B, C, heads)
    similarity = (text.unsqueeze(0) @ embed).softmax(dim=-1)  # (B, N, heads)
    total = similarity.sum(dim=-1)
    repeated = maps.unsqueeze(1).repeat(1, classes, 1, 1)
    weights = similarity.unsqueeze(-1).repeat(1, 1, 1, places)
    average = (repeated * weights).sum(dim=2) / total.unsqueeze(-1).repeat(1, 1, places)
    average = average.softmax(dim=-1)
    low, high = average.min().item(), average.max().item()
    high = max(high, high - low)
    average = (average - low) / high
    average = average * (mask.max() - mask.min()) + mask.min()
    mask = mask.reshape(classes, places)
    return (mask + LAMBDA * average).reshape(batch, classes, h, w) / (1 + LAMBDA)


def generate_masks(vision: nn.Module, image: Tensor, text: Tensor, *, clean: bool, pamr: int) -> Tensor:
    """One window, RGB in 0..255: (1, 3, H, W) -> (1, N, H, W)."""
    size = image.shape[-2:]
    mean, std = (torch.tensor(v)[:, None, None] for v in (SMALL.mean, SMALL.std))
    resized = F.interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
    captured: list[Tensor] = []
    vit = vision.backbone.vit
    hook = vit.blocks[-1].attn.qkv.register_forward_hook(lambda _m, _i, output: captured.append(output))
    feat = vision((resized / 255.0 - mean) / std)
    hook.remove()
    tokens = captured[0].shape[1]
    qkv = captured[0].reshape(1, tokens, 3, HEADS, -1).permute(2, 0, 3, 1, 4)
    q, k = qkv[0] * 0.125, qkv[1]
    maps = (q @ k.transpose(-2, -1))[:, :, 0, GLOBAL_TOKENS:]
    assert int(sqrt(maps.shape[-1])) == feat.shape[-1]
    normal = feat / feat.norm(dim=1, keepdim=True)
    mask = torch.sigmoid(torch.einsum("bchw,nc->bnhw", normal, text))
    if clean:
        mask = similarity_assignment_weighted(mask, feat, maps, text)
    mask = F.interpolate(mask, size, mode="bilinear", align_corners=True)
    if pamr:
        for c in range(0, mask.shape[1], 30):
            mask[:, c : c + 30] = Pamr((1, 2, 4, 8, 12, 24))(image, mask[:, c : c + 30], pamr)
    return mask


def slide_inference(
    vision: nn.Module, photo: np.ndarray, text: Tensor, *, clean: bool, pamr: int, background: float | None
) -> tuple[Tensor, Tensor]:
    """mmseg's loop over windows of the resized photo. Returns (1, N, H, W) averaged masks, and labels."""
    height, width = photo.shape[:2]
    scale = min(2048 / max(height, width), SIDE / min(height, width))
    size = int(height * scale + 0.5), int(width * scale + 0.5)
    # cv2.INTER_LINEAR: two taps a side, rounded to whole numbers.
    image = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float()
    image = (F.interpolate(image, size, mode="bilinear", align_corners=False) + 0.5).floor()
    channels = len(text) + (background is not None)
    preds, count = torch.zeros(1, channels, *size), torch.zeros(1, 1, *size)
    rows = max(size[0] - SIDE + STRIDE - 1, 0) // STRIDE + 1
    columns = max(size[1] - SIDE + STRIDE - 1, 0) // STRIDE + 1
    for row in range(rows):
        for column in range(columns):
            y2, x2 = min(row * STRIDE + SIDE, size[0]), min(column * STRIDE + SIDE, size[1])
            y1, x1 = max(y2 - SIDE, 0), max(x2 - SIDE, 0)
            masks = generate_masks(vision, image[:, :, y1:y2, x1:x2], text, clean=clean, pamr=pamr)
            if background is not None:
                constant = torch.full((1, 1, *masks.shape[2:]), background)
                masks = torch.cat([constant, masks], dim=1)
            preds += F.pad(masks, (x1, size[1] - x2, y1, size[0] - y2))
            count[:, :, y1:y2, x1:x2] += 1
    preds = F.interpolate(preds / count, (height, width), mode="bilinear", align_corners=False)
    return preds, F.softmax(preds, dim=1).argmax(dim=1)[0]


@torch.inference_mode()
def test_class_embeddings_project_the_mean_of_clips_features(model) -> None:
    _, text = model
    assert set(load_templates("imagenet7")) == set(TEMPLATES)
    classes = [(name,) for name in NAMES]
    expected = build_text_embedding(text, NAMES)
    torch.testing.assert_close(embed_classes(text, classes, TEMPLATES), expected, rtol=0, atol=2e-6)
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    single = [text(tokenizer([t.format(name) for t in TEMPLATES])).mean(0) for name in NAMES]
    other = F.normalize(torch.stack(single), dim=-1)
    assert (other * expected).sum(1).min() < 0.9999  # the mean of projected prompts is something else


@torch.inference_mode()
def test_background_cleaning_equals_the_official_steps() -> None:
    torch.manual_seed(0)
    masks, feat = torch.rand(1, 4, 5, 6), torch.randn(1, 8, 5, 6)
    maps, text = torch.randn(1, 3, 30), F.normalize(torch.randn(4, 8), dim=-1)
    expected = similarity_assignment_weighted(masks, feat, maps, text)[0]
    found = clean_background(masks[0], feat[0], attention=maps[0], text=text, weight=LAMBDA)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found - masks[0]).abs().max() > 0.05


@torch.inference_mode()
def test_pamr_equals_the_official_steps() -> None:
    torch.manual_seed(0)
    image, masks = torch.rand(1, 3, 20, 31) * 255, torch.rand(1, 4, 20, 31)
    expected = Pamr((1, 2, 4))(image, masks, 10)[0]
    found = refine_masks(image[0], masks[0], iterations=10, dilations=(1, 2, 4))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert (found - masks[0]).abs().max() > 0.2


PHOTOS = ((90, 131), (150, 77), (40, 200))  # height, width; windows that overlap down, across, many


@pytest.mark.parametrize("clean", [False, True])
@pytest.mark.parametrize("pamr", [0, 2])
@pytest.mark.parametrize("background", [None, 0.52])
@torch.inference_mode()
def test_labels_are_the_official_evaluations(
    model, tmp_path: Path, clean: bool, pamr: int, background: float | None
) -> None:
    network, text = model
    protocol = replace(
        protocols.TALK2DINO,
        short_side=SIDE,
        window=SIDE,
        stride=STRIDE,
        background_cleaning=LAMBDA if clean else 0.0,
        pamr=pamr,
    )
    ours = Talk2Dino(network, text, protocol=protocol, threads=1)
    vocabulary = Vocabulary(tuple((name,) for name in NAMES), background=background is not None)
    embeddings = ours.encode_classes(vocabulary, ())
    official_text = build_text_embedding(text, NAMES)
    random = np.random.default_rng(0)
    seen = set()
    for number, (height, width) in enumerate(PHOTOS):
        small = random.integers(0, 256, (9, 9, 3), dtype=np.uint8)
        picture = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        picture.save(tmp_path / f"{number}.png")
        scores, expected = slide_inference(
            network.vision, np.asarray(picture), official_text, clean=clean, pamr=pamr, background=background
        )
        found = ours.label(
            load_photo(tmp_path / f"{number}.png"), vocabulary, text=embeddings, threshold=background
        ).labels
        best = scores.topk(2, dim=1).values[0]
        ties = best[0] - best[1] < 5e-6  # two classes within rounding; measured: at most 2.3e-6
        assert (torch.from_numpy(found.astype(np.int64)) == expected)[~ties].all()
        assert ties.float().mean() < 0.01
        seen |= set(np.unique(found).tolist())
    assert len(seen) > 2
