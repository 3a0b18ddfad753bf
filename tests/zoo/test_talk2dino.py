"""The networks of Talk2DINO: patches as timm's, words as open_clip's and a restated projection."""

import numpy as np
import open_clip
import pytest
import timm
import torch
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg
from timm.models.vision_transformer import checkpoint_filter_fn
from torch.nn.functional import normalize

from ovsdino.network.checkpoint import CheckpointError
from ovsdino.zoo import checkpoint
from ovsdino.zoo.config import TALK2DINO, ZERO_SHOT
from ovsdino.zoo.network import build_talk2dino
from ovsdino.zoo.talk2dino import Talk2DinoText
from tests.zoo import official_files as official
from tests.zoo.official_files import CLIP_LAYERS, CLIP_WIDTH, SMALL, SMALL_DINOV3


@pytest.fixture
def folder(tmp_path):
    """Talk2DINO's three parts, each as its project publishes it."""
    parts = tmp_path / "parts"
    parts.mkdir()
    torch.save(official.dinov2(), parts / "dinov2_vitb14_reg4_pretrain.pth")
    torch.save(official.clip(), parts / "clip.pth")
    torch.save(official.projection(second="linear_layer2"), parts / "vitb_mlp_infonce.pth")
    return parts


@pytest.fixture
def ids():
    return open_clip.get_tokenizer("ViT-B-16")(["a photo of a cat.", "grass", "the large wooden table"])


def raw_clip(ids):
    """CLIP's own text features, by open_clip, on the weights of the official file."""
    model = CLIP(
        CLIP_WIDTH,
        CLIPVisionCfg(layers=1, width=16, head_width=16, patch_size=16, image_size=32),
        CLIPTextCfg(width=CLIP_WIDTH, heads=2, layers=CLIP_LAYERS),
        quick_gelu=True,
    ).eval()
    model.load_state_dict(official.clip(), strict=False)
    with torch.inference_mode():
        return model.encode_text(ids).numpy()


def project(x):
    """The projection, restated in numpy."""
    weights = {key: value.numpy() for key, value in official.projection().items()}
    hidden = np.tanh(x @ weights["linear_layer.weight"].T + weights["linear_layer.bias"])
    out = hidden @ weights["hidden_layers.0.weight"].T + weights["hidden_layers.0.bias"]
    return out / np.linalg.norm(out, axis=1, keepdims=True)


def test_patches_are_dinov2s_own(folder):
    network, _ = checkpoint.load(SMALL.name, [folder])
    reference = timm.create_model(SMALL.backbone, img_size=56, num_classes=0).eval()
    reference.load_state_dict(checkpoint_filter_fn(official.dinov2(), reference))
    pixels = torch.randn(2, 3, 56, 56)
    with torch.inference_mode():
        expected = reference.forward_features(pixels)[:, 5:].transpose(1, 2).reshape(2, -1, 4, 4)
        found = network(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not network.training


def test_dinov3s_patches_are_timms(tmp_path):
    torch.save(official.dinov3(), tmp_path / "dinov3.pth")
    torch.save(official.clip(), tmp_path / "clip.pth")
    torch.save(official.projection(192), tmp_path / "projection.pth")
    network, _ = checkpoint.load(SMALL_DINOV3.name, [tmp_path])
    vit = network.vision.backbone
    pixels = torch.randn(1, 3, 64, 48)
    with torch.inference_mode():
        expected = vit.forward_intermediates(pixels, indices=1, norm=True, intermediates_only=True)[0]
        torch.testing.assert_close(network(pixels), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        vit.blocks[3].gamma_1.detach(), official.dinov3()["blocks.3.ls1.gamma"], rtol=0, atol=0
    )


def test_words_are_clips_and_projected(folder, ids):
    _, text = checkpoint.load(SMALL.name, [folder])
    with torch.inference_mode():
        found = text(ids).numpy()
    np.testing.assert_allclose(found, project(raw_clip(ids)), atol=2e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


def test_the_projection_takes_clips_features_at_their_own_length(folder, ids):
    raw = raw_clip(ids)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert abs(lengths - 1).min() > 0.5  # else this test could not tell
    _, text = checkpoint.load(SMALL.name, [folder])
    with torch.inference_mode():
        found = text(ids).numpy()
    wrong = project(raw / lengths)
    assert (found * wrong).sum(1).max() < 0.99
    assert (found * project(raw)).sum(1).min() > 0.99999


def test_the_whole_file_is_its_parts(folder, tmp_path, ids):
    torch.save(official.whole(), tmp_path / "whole.pth")
    pixels = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        answers = [
            (network(pixels), text(ids))
            for network, text in (
                checkpoint.load(SMALL.name, [folder]),
                checkpoint.load(SMALL.name, [tmp_path / "whole.pth"]),
            )
        ]
    for one, other in zip(*answers, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


def test_dinov3s_whole_file_has_timms_names_after_transformers(tmp_path):
    """transformers saves ``gamma_1`` as ``weight_1``."""
    vit = timm.create_model(SMALL_DINOV3.backbone, num_classes=0)
    parts = {"clip_model": official.clip(), "proj": official.projection(192), "model": vit.state_dict()}
    tensors = {
        f"{name}.{key}".replace(".gamma_", ".weight_"): value
        for name, part in parts.items()
        for key, value in part.items()
    }
    assert "model.blocks.0.weight_1" in tensors
    network, _ = checkpoint.load(SMALL_DINOV3.name, [save(tensors, tmp_path / "whole.pth")])
    for key, value in vit.state_dict().items():
        assert torch.equal(network.vision.backbone.state_dict()[key], value)


def test_the_score_is_the_plain_cosine(folder, ids):
    network, text = checkpoint.load(SMALL.name, [folder])
    pixels = torch.randn(1, 3, 56, 56)
    with torch.inference_mode():
        words, patches = text(ids), normalize(network(pixels), dim=1)
        expected = torch.einsum("bdhw,nd->bnhw", patches, words)
        torch.testing.assert_close(network.score(pixels, words), expected, rtol=1e-5, atol=1e-6)


def save(tensors, path):
    torch.save(tensors, path)
    return path


def test_files_that_do_not_fit_are_refused(tmp_path, folder):
    clip, dino = save(official.clip(), tmp_path / "c.pth"), save(official.dinov2(), tmp_path / "d.pth")
    other = save(official.projection(64), tmp_path / "p.pth")
    with pytest.raises(CheckpointError, match=r"talk2dino-small also needs Talk2DINO's projection"):
        checkpoint.load(SMALL.name, [clip, dino])
    with pytest.raises(CheckpointError, match=r"p\.pth is not a checkpoint of the projection.*mis-shaped"):
        checkpoint.load(SMALL.name, [clip, dino, other])
    with pytest.raises(CheckpointError, match="both hold CLIP; give one of them"):
        checkpoint.load(SMALL.name, [folder, clip])
    with pytest.raises(
        CheckpointError, match=r"s\.pth holds Segment Anything, which talk2dino-small does not"
    ):
        checkpoint.load(SMALL.name, [folder, save(official.sam(), tmp_path / "s.pth")])
    with pytest.raises(CheckpointError, match="a DINOv2 backbone"):
        checkpoint.load(SMALL.name, [folder / "clip.pth", folder / "vitb_mlp_infonce.pth"])


def test_a_whole_file_with_a_foreign_tensor_is_refused(tmp_path):
    path = save(official.whole() | {"extra.weight": torch.zeros(1)}, tmp_path / "whole.pth")
    with pytest.raises(CheckpointError, match=r"is not a Talk2DINO: unexpected extra\.weight"):
        checkpoint.load(SMALL.name, [path])
    lacking = {key: value for key, value in official.whole().items() if key != "model.norm.bias"}
    with pytest.raises(CheckpointError, match=r"1 missing \(norm\.bias\)"):
        checkpoint.load(SMALL.name, [save(lacking, tmp_path / "lacking.pth")])


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint in it"):
        checkpoint.load(SMALL.name, [tmp_path])


def test_dinotxt_from_its_two_files(tmp_path):
    torch.save(official.dinov3(), tmp_path / "backbone.pth")
    torch.save(official.dinotxt(), tmp_path / "dinotxt.pth")
    network, text = checkpoint.load("dinotxt-small", [tmp_path])
    vlm = checkpoint.load_vlm([tmp_path / "backbone.pth", tmp_path / "dinotxt.pth"], "dinotxt-small")
    tokens, pixels = torch.randint(1, 49000, (3, 6)), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        half = vlm.text(tokens)[:, 192:]  # the half that meets patches
        torch.testing.assert_close(text(tokens), half / half.norm(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(network(pixels), vlm.vision(pixels), rtol=0, atol=0)
    with pytest.raises(CheckpointError, match="dinotxt-small also needs a DINOv3 backbone"):
        checkpoint.load("dinotxt-small", [tmp_path / "dinotxt.pth"])


@pytest.mark.parametrize(
    ("name", "parameters"), [("talk2dino-vitb14", 86.58e6), ("talk2dino-dinov3-vitb16", 85.66e6)]
)
def test_the_published_sizes(name, parameters):
    config = TALK2DINO[name]
    with torch.device("meta"):
        network, text = build_talk2dino(config), Talk2DinoText(config)
    count = sum(parameter.numel() for parameter in network.vision.parameters())
    assert count == pytest.approx(parameters, rel=2e-3)
    assert sum(parameter.numel() for parameter in text.projection.parameters()) == 512 * 768 + 768 * 769 + 768
    assert (config.image_size, config.stride, config.background, config.templates) == (
        448,
        224,
        0.55,
        "imagenet7",
    )


def test_dinotxt_is_cut_as_its_notebook_cuts():
    config = ZERO_SHOT["dinotxt-vitl16"]
    assert (config.short_side, config.image_size, config.stride) == (512, 384, 192)
    assert (config.text_width, config.templates, config.patch_size) == (1024, "imagenet80", 16)
