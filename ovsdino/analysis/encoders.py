"""Image encoders with access to their layers: the DINO family, SAM, and any ViT of timm."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from ovsdino.analysis.errors import AnalysisError
from ovsdino.masks.teachers.sam import OFFICIAL, SOURCE, load_sam
from ovsdino.network.backbone import Backbone
from ovsdino.network.checkpoint import PACKAGED, check_keys, load_backbone, load_model, read_tensors
from ovsdino.network.config import IMAGENET_MEAN, IMAGENET_STD, PRESETS, ModelConfig
from ovsdino_runtime.geometry.preprocess import Preprocessing, normalise, resize_photo
from ovsdino_runtime.geometry.types import Photo

SAM_DEPTHS = {"vit_b": 12, "vit_l": 24, "vit_h": 32}  # [blocks]
SAM_FILES = {f"sam_{kind}": file for kind, file in OFFICIAL.items()}


@dataclass(frozen=True)
class Encoder:
    """A frozen encoder and its preprocessing."""

    name: str  # as the user wrote it
    depth: int  # [blocks]
    image_size: int  # [px] side of the square it reads
    colours: Preprocessing  # mean and deviation of its input
    module: nn.Module
    layer_maps: Callable[[Tensor, Sequence[int]], list[Tensor]]  # pixels, 1-based blocks -> (B, C, h, w) each

    def read(self, squares: Sequence[Photo]) -> Tensor:
        """Resize and normalise square photos: (S, S, 3) each -> (B, 3, image_size, image_size)."""
        size = self.image_size
        sized = [resize_photo(square, size, size, antialias=True) for square in squares]
        inputs = [torch.from_numpy(normalise(photo, self.colours)) for photo in sized]  # (H, W, 3) each
        return torch.stack(inputs).permute(0, 3, 1, 2)  # (B, 3, H, W)

    def require_layers(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Reject block numbers that the encoder does not have."""
        wrong = [layer for layer in layers if not 1 <= layer <= self.depth]
        if wrong:
            raise AnalysisError(f"{self.name} has blocks 1 to {self.depth}, not {wrong[0]}")
        return tuple(layers)


def open_encoder(spec: str, device: torch.device) -> Encoder:
    """Open an encoder by its name and the file of its weights.

    Args:
        spec: ``NAME=FILE``. NAME is a preset of `ovsdino.network.config.PRESETS` (its backbone),
            ``sam_vit_b``, ``sam_vit_l``, ``sam_vit_h``, or ``timm/`` and a ViT of timm. FILE is a public ViT
            with timm's or the official key names, or a checkpoint of the whole model; leave it out if the
            weights are packaged.
        device: device of the encoder.

    Returns:
        The encoder in eval mode, FP32.

    Raises:
        AnalysisError: there is no such encoder, it needs a file, or the file is a SAM of another size.
        CheckpointError: the file is missing, broken, or belongs to another network.
        MaskError: the same for SAM's file.
    """
    name, _, path = spec.partition("=")
    file = Path(path) if path else None
    if name in PRESETS:
        encoder = _open_backbone(spec, PRESETS[name], file)
    elif name in SAM_FILES:
        if file is None:
            raise AnalysisError(
                f"{name} needs its weights: write {name}=FILE; they are at {SOURCE}/{SAM_FILES[name]}"
            )
        encoder = _open_sam(spec, name.removeprefix("sam_"), file)
    elif name.startswith("timm/"):
        encoder = _open_timm(spec, name.removeprefix("timm/"), file)
    else:
        known = ", ".join([*PRESETS, *SAM_FILES])
        raise AnalysisError(f"unknown encoder {name!r}: expected NAME=FILE, NAME one of {known}, timm/...")
    encoder.module.eval().requires_grad_(False).to(device)
    return encoder


def _open_backbone(spec: str, config: ModelConfig, file: Path | None) -> Encoder:
    if file is None and config.name not in PACKAGED:
        raise AnalysisError(
            f"{config.name} needs its weights: write {config.name}=FILE, a public ViT ({config.backbone}) or "
            "a checkpoint that you trained"
        )
    every = tuple(range(1, config.backbone_depth + 1))
    backbone = Backbone(replace(config, taps=every, norm_taps="none"))
    if file is None or any(key.startswith("backbone.") for key in read_tensors(file)):
        backbone.load_state_dict(load_model(config.name, file).backbone.state_dict())
    else:
        load_backbone(backbone, file)

    def layer_maps(pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        taps, _ = backbone(pixels)
        return [taps[layer - 1] for layer in layers]

    colours = _colours(config.mean, config.std)
    return Encoder(
        name=spec,
        depth=config.backbone_depth,
        image_size=config.image_size,
        colours=colours,
        module=backbone,
        layer_maps=layer_maps,
    )


def _open_sam(spec: str, kind: str, file: Path) -> Encoder:
    encoder = sam_encoder(spec, load_sam(file).image_encoder)
    if encoder.depth != SAM_DEPTHS[kind]:
        raise AnalysisError(
            f"{file}: got {encoder.depth} blocks, expected {SAM_DEPTHS[kind]} of SAM's {kind}"
        )
    return encoder


def sam_encoder(name: str, module: Any) -> Encoder:  # noqa: ANN401 - segment-anything ships no types
    """Wrap an ``ImageEncoderViT`` of segment-anything: outputs of its blocks, before the neck."""

    def layer_maps(pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        x = module.patch_embed(pixels)  # (B, h, w, C)
        if module.pos_embed is not None:
            x = x + module.pos_embed
        outputs = []
        for block in module.blocks:
            x = block(x)
            outputs.append(x)
        return [outputs[layer - 1].permute(0, 3, 1, 2) for layer in layers]  # (B, C, h, w)

    colours = _colours(IMAGENET_MEAN, IMAGENET_STD)
    return Encoder(
        name=name,
        depth=len(module.blocks),
        image_size=module.img_size,
        colours=colours,
        module=module,
        layer_maps=layer_maps,
    )


def _open_timm(spec: str, name: str, file: Path | None) -> Encoder:
    import timm
    from timm.data.config import resolve_model_data_config

    if not timm.is_model(name):
        raise AnalysisError(f"timm has no model {name!r}; timm.list_models('vit*') lists them")
    if file is None:
        raise AnalysisError(f"timm/{name} needs its weights: write timm/{name}=FILE")
    with torch.device("meta"):
        module = cast(Any, timm.create_model(name, pretrained=False, num_classes=0))
    if not hasattr(module, "blocks") or not hasattr(module, "forward_intermediates"):
        raise AnalysisError(f"timm/{name} is not a ViT of timm: it has no blocks")
    classifier = module.pretrained_cfg.get("classifier") or ()
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    tensors = {
        key: value.float()
        for key, value in read_tensors(file).items()
        if not any(key.startswith(f"{head}.") for head in heads)
    }
    _fill(module, tensors, file=file, name=f"timm/{name}")

    def layer_maps(pixels: Tensor, layers: Sequence[int]) -> list[Tensor]:
        wanted = sorted(layer - 1 for layer in layers)
        maps = module.forward_intermediates(
            pixels, indices=wanted, norm=False, output_fmt="NCHW", intermediates_only=True
        )
        by_layer = dict(zip(wanted, maps, strict=True))
        return [by_layer[layer - 1] for layer in layers]

    data = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
    return Encoder(
        name=spec,
        depth=len(module.blocks),
        image_size=data["input_size"][1],
        colours=_colours(data["mean"], data["std"]),
        module=module,
        layer_maps=layer_maps,
    )


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], *, file: Path, name: str) -> None:
    check_keys(
        {key: value.shape for key, value in module.state_dict().items()}, tensors, path=file, name=name
    )
    module.load_state_dict(tensors, assign=True)


def _colours(mean: Sequence[float], std: Sequence[float]) -> Preprocessing:
    return Preprocessing(mean=(mean[0], mean[1], mean[2]), std=(std[0], std[1], std[2]))
