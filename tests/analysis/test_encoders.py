"""Encoders: the maps they give are their blocks' outputs; official files load strictly; refusals."""

import pytest
import timm
import torch
from safetensors.torch import save_file
from segment_anything import sam_model_registry
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer

from ovsdino.analysis import encoders
from ovsdino.analysis.encoders import open_encoder, sam_encoder
from ovsdino.analysis.errors import AnalysisError
from ovsdino.masks.errors import MaskError
from ovsdino.network.checkpoint import CheckpointError, load_model, save_model

CPU = torch.device("cpu")


def block_outputs(blocks, run):
    """What each block returns while ``run`` runs, by torch's own hooks."""
    found = []
    hooks = [block.register_forward_hook(lambda _m, _i, out: found.append(out)) for block in blocks]
    with torch.inference_mode():
        run()
    for hook in hooks:
        hook.remove()
    return found


def image_encoder(size=64):
    torch.manual_seed(0)
    return ImageEncoderViT(
        img_size=size,
        embed_dim=16,
        depth=3,
        num_heads=2,
        out_chans=16,
        window_size=3,
        use_rel_pos=True,
        global_attn_indexes=(2,),
    )


def tiny_sam():
    """All of SAM, in its own layout, small."""
    prompt = PromptEncoder(
        embed_dim=16, image_embedding_size=(4, 4), input_image_size=(64, 64), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=16, mlp_dim=2048, num_heads=8)
    decoder = MaskDecoder(transformer_dim=16, transformer=transformer)
    return Sam(image_encoder=image_encoder(), prompt_encoder=prompt, mask_decoder=decoder)


def test_a_preset_gives_its_backbones_blocks():
    encoder = open_encoder("nano", CPU)
    assert (encoder.depth, encoder.image_size) == (12, 448)
    backbone = load_model("nano").backbone
    pixels = torch.randn(1, 3, 64, 48)
    expected = block_outputs(backbone.vit.blocks, lambda: backbone(pixels))
    with torch.inference_mode():
        maps = encoder.layer_maps(pixels, (12, 1, 7))
    for layer, features in zip((12, 1, 7), maps, strict=True):
        patches = expected[layer - 1][:, 1:].reshape(1, 4, 3, 192).permute(0, 3, 1, 2)
        torch.testing.assert_close(features, patches)


def test_a_preset_takes_a_public_vit_or_a_whole_checkpoint(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False)
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    opened = open_encoder(f"nano={tmp_path / 'vit.safetensors'}", CPU)
    assert torch.equal(opened.module.vit.blocks[3].mlp.fc1.weight, vit.blocks[3].mlp.fc1.weight)

    model = load_model("nano")
    with torch.no_grad():
        model.backbone.vit.blocks[3].mlp.fc1.weight += 1
    save_model(model, tmp_path / "whole.safetensors")
    opened = open_encoder(f"nano={tmp_path / 'whole.safetensors'}", CPU)
    assert torch.equal(
        opened.module.vit.blocks[3].mlp.fc1.weight, model.backbone.vit.blocks[3].mlp.fc1.weight
    )


def test_any_vit_of_timm(tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("vit_tiny_patch16_224", pretrained=False).eval()
    save_file(vit.state_dict(), tmp_path / "vit.safetensors")
    encoder = open_encoder(f"timm/vit_tiny_patch16_224={tmp_path / 'vit.safetensors'}", CPU)
    assert (encoder.depth, encoder.image_size, encoder.colours.mean) == (12, 224, (0.5, 0.5, 0.5))
    pixels = torch.randn(1, 3, 224, 224)
    expected = block_outputs(vit.blocks, lambda: vit(pixels))
    with torch.inference_mode():
        maps = encoder.layer_maps(pixels, (9, 2))
    for layer, features in zip((9, 2), maps, strict=True):
        patches = expected[layer - 1][:, 1:].reshape(1, 14, 14, 192).permute(0, 3, 1, 2)
        torch.testing.assert_close(features, patches)


def test_sams_blocks_are_those_before_its_neck():
    module = image_encoder().eval()
    with torch.no_grad():
        for parameter in module.parameters():  # SAM's positions start at zero
            parameter.copy_(torch.randn_like(parameter) * 0.2)
    encoder = sam_encoder("sam", module)
    pixels = torch.randn(2, 3, 64, 64)
    expected = block_outputs(module.blocks, lambda: module(pixels))
    with torch.inference_mode():
        maps = encoder.layer_maps(pixels, (3, 1))
        for layer, features in zip((3, 1), maps, strict=True):
            torch.testing.assert_close(features, expected[layer - 1].permute(0, 3, 1, 2))
        torch.testing.assert_close(module.neck(maps[0]), module(pixels))


def test_a_file_of_all_of_sam_loads_strictly(tmp_path, monkeypatch):
    """SAM's own classes and key names; only the size is not ViT-B's."""
    monkeypatch.setitem(encoders.SAM_DEPTHS, "vit_b", 3)
    sam = tiny_sam()
    with torch.no_grad():
        sam.image_encoder.pos_embed.normal_()
    torch.save(sam.state_dict(), tmp_path / "sam.pth")
    encoder = open_encoder(f"sam_vit_b={tmp_path / 'sam.pth'}", CPU)
    for name, value in encoder.module.state_dict().items():
        assert torch.equal(value, sam.image_encoder.state_dict()[name]), name
    assert not any(parameter.requires_grad for parameter in encoder.module.parameters())

    state = sam.state_dict()
    state["image_encoder.more"] = state.pop("image_encoder.pos_embed")
    torch.save(state, tmp_path / "wrong.pth")
    with pytest.raises(MaskError, match=r"not SAM's checkpoint \('image_encoder.pos_embed'\)"):
        open_encoder(f"sam_vit_b={tmp_path / 'wrong.pth'}", CPU)
    with pytest.raises(AnalysisError, match="got 3 blocks, expected 24 of SAM's vit_l"):
        open_encoder(f"sam_vit_l={tmp_path / 'sam.pth'}", CPU)


def test_the_sizes_of_sam_are_those_of_its_library():
    for kind, depth in encoders.SAM_DEPTHS.items():
        with torch.device("meta"):
            assert len(sam_model_registry[kind]().image_encoder.blocks) == depth


def test_squares_are_resized_and_normalised():
    encoder = open_encoder("nano", CPU)
    white, black = torch.full((30, 30, 3), 255).byte().numpy(), torch.zeros(700, 700, 3).byte().numpy()
    pixels = encoder.read([white, black])
    assert pixels.shape == (2, 3, 448, 448)
    torch.testing.assert_close(pixels[0], torch.ones(3, 448, 448))
    torch.testing.assert_close(pixels[1], -torch.ones(3, 448, 448))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("resnet50", r"unknown encoder 'resnet50': expected NAME=FILE, NAME one of ovsdino-vitb14, nano"),
        ("sam_vit_b", r"sam_vit_b needs its weights: write sam_vit_b=FILE; they are at https://dl\.fbai"),
        ("ovsdino-vitb14", "ovsdino-vitb14 needs its weights: write ovsdino-vitb14=FILE, a public ViT"),
        ("timm/vit_tiny", "timm has no model 'vit_tiny'"),
        ("timm/vit_tiny_patch16_224", "write timm/vit_tiny_patch16_224=FILE"),
        ("timm/resnet18=x", "timm/resnet18 is not a ViT of timm: it has no blocks"),
        ("nano=nowhere.pth", r"no checkpoint at .*nowhere\.pth"),
    ],
)
def test_an_encoder_that_cannot_be_opened_is_refused(spec, message):
    with pytest.raises((AnalysisError, CheckpointError), match=message):
        open_encoder(spec, CPU)


def test_blocks_that_are_not_there_are_refused():
    encoder = sam_encoder("sam", image_encoder())
    with pytest.raises(AnalysisError, match="sam has blocks 1 to 3, not 4"):
        encoder.require_layers((3, 4))
