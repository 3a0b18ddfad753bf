"""Load published models strictly from official files, which are recognised by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from torch import Tensor, nn

from ovsdino.dinov3seg import checkpoint as official
from ovsdino.dinov3seg.vlm import Vlm
from ovsdino.network.checkpoint import CheckpointError, fill, fill_backbone, read_tensors, shorten
from ovsdino.network.clip_text import TEXT_KEYS
from ovsdino.zoo.config import TALK2DINO, ZERO_SHOT, Talk2DinoConfig
from ovsdino.zoo.layouts import LAYOUTS, require_layout
from ovsdino.zoo.network import ZooNetwork, build_talk2dino, zero_shot
from ovsdino.zoo.talk2dino import Dinov2Patches, Dinov3Patches, Talk2DinoText

SUFFIXES = {".safetensors", ".pth", ".pt", ".bin"}
PARTS = {layout.name: layout.what for layout in LAYOUTS} | {"backbone": "a backbone in timm's names"}

# Parts of Talk2DINO's whole file, by the names of its modules in ``src/hf_model/talk2dino.py``.
WHOLE = {"model.": "backbone", "clip_model.": "clip", "proj.": "talk2dino"}
UNUSED = {"logit_scale"}  # of the whole file: training's temperature


@dataclass(frozen=True)
class Part:
    """Tensors of one layout, and their file."""

    tensors: dict[str, Tensor]
    path: Path


def load(name: str, paths: Sequence[Path]) -> tuple[ZooNetwork, nn.Module]:
    """Load a published model.

    Args:
        name: a key of :data:`ovsdino.zoo.config.TALK2DINO` or :data:`ovsdino.zoo.config.ZERO_SHOT`.
        paths: official files, or folders of them; they are recognised by their keys.

    Returns:
        The network, and its text tower: ids (N, T) -> (N, D) of unit length. FP32, in eval mode.

    Raises:
        CheckpointError: a file is missing, broken, superfluous, or belongs to another network.
    """
    if name in ZERO_SHOT:
        return zero_shot(load_vlm(paths, name), ZERO_SHOT[name])
    return load_talk2dino(TALK2DINO[name], paths)


def load_talk2dino(config: Talk2DinoConfig, paths: Sequence[Path]) -> tuple[ZooNetwork, Talk2DinoText]:
    """Load a Talk2DINO from the Hub's whole file, or from backbone, CLIP and projection."""
    parts = split_whole(gather(paths))
    backbone = parts.pop(config.family, None) or parts.pop("backbone", None)
    wanted = {"clip": PARTS["clip"], "talk2dino": PARTS["talk2dino"]}
    check_parts(config.name, parts, wanted if backbone else {config.family: PARTS[config.family]} | wanted)
    assert backbone is not None
    network, text = build_talk2dino(config), Talk2DinoText(config)
    fill_patches(cast("Dinov2Patches | Dinov3Patches", network.vision), backbone)
    clip, projection = parts["clip"], parts["talk2dino"]
    words = {key: value for key, value in clip.tensors.items() if key.startswith(TEXT_KEYS)}
    fill(text.tower.clip, words, path=clip.path, name="CLIP ViT-B/16's text encoder")
    renamed = {key.replace("linear_layer2.", "hidden_layers.0."): v for key, v in projection.tensors.items()}
    fill(text.projection, renamed, path=projection.path, name=f"the projection of {config.name}")
    return network.eval(), text.eval()


def load_vlm(paths: Sequence[Path], name: str = "dinotxt-vitl16") -> Vlm:
    """Load dino.txt from its two official files: backbone, and vision head with text encoder."""
    config = ZERO_SHOT[name].vlm
    parts = gather(paths)
    dinotxt = parts.get("dinotxt")
    inside = dinotxt is not None and any(key.startswith("visual_model.backbone.") for key in dinotxt.tensors)
    backbone = None if inside else parts.pop("dinov3", None) or parts.pop("backbone", None)
    wanted = {"dinotxt": PARTS["dinotxt"]} | ({} if inside or backbone else {"dinov3": PARTS["dinov3"]})
    check_parts(name, parts, wanted)
    assert dinotxt is not None
    vlm = Vlm(config)
    official.fill_dinotxt(vlm, dinotxt.tensors, dinotxt.path)
    if backbone is not None:
        official.fill_backbone(official.dinotxt_vision(vlm, backbone.path), backbone.tensors, backbone.path)
    return vlm.eval()


def gather(paths: Sequence[Path]) -> dict[str, Part]:
    """Read files and recognise them.

    Raises:
        CheckpointError: a file is missing, broken, unknown, or the second one of its kind.
    """
    files = [file for path in paths for file in (list_files(path) if path.is_dir() else [path])]
    parts: dict[str, Part] = {}
    for file in files:
        tensors = read_tensors(file)
        kind = kind_of(tensors, file)
        if kind in parts:
            raise CheckpointError(f"{parts[kind].path} and {file} both hold {PARTS[kind]}; give one of them")
        parts[kind] = Part(tensors, file)
    return parts


def list_files(folder: Path) -> list[Path]:
    """List the checkpoints in a folder.

    Raises:
        CheckpointError: the folder contains no checkpoint.
    """
    files = sorted(file for file in folder.iterdir() if file.suffix in SUFFIXES)
    if not files:
        raise CheckpointError(f"{folder}: no checkpoint in it (looked for {', '.join(sorted(SUFFIXES))})")
    return files


def kind_of(tensors: dict[str, Tensor], file: Path) -> str:
    """Return the kind of a file: its layout, or "backbone" for timm's names.

    Raises:
        CheckpointError: the layout is unknown.
    """
    timm = {"cls_token", "reg_token", "norm.weight", "patch_embed.proj.weight"} <= tensors.keys()
    return "backbone" if timm else require_layout(tensors, file).name


def split_whole(parts: dict[str, Part]) -> dict[str, Part]:
    """Split Talk2DINO's whole file, if given, into backbone, CLIP and projection.

    Raises:
        CheckpointError: another file contains one of its parts, or it contains an unknown tensor.
    """
    whole = parts.pop("talk2dino-whole", None)
    if whole is None:
        return parts
    for prefix, name in WHOLE.items():
        inside = {key: value for key, value in whole.tensors.items() if key.startswith(prefix)}
        if name in parts:
            raise CheckpointError(f"{parts[name].path}: {whole.path} holds {PARTS[name]} already")
        parts[name] = Part(
            {rename(key.removeprefix(prefix)): value for key, value in inside.items()}, whole.path
        )
    other = [key for key in whole.tensors if not key.startswith(tuple(WHOLE)) and key not in UNUSED]
    if other:
        raise CheckpointError(f"{whole.path} is not a Talk2DINO: unexpected {shorten(sorted(other))}")
    return parts


def rename(key: str) -> str:
    """Undo the renaming of the Hub's tools: transformers saves ``gamma`` as ``weight``."""
    return key.replace(".weight_1", ".gamma_1").replace(".weight_2", ".gamma_2")


def check_parts(name: str, parts: dict[str, Part], wanted: dict[str, str]) -> None:
    """Check that exactly the wanted parts are given.

    Raises:
        CheckpointError: a part is missing or superfluous; the message describes it.
    """
    missing = [what for part, what in wanted.items() if part not in parts]
    if missing:
        raise CheckpointError(f"{name} also needs {' and '.join(missing)}: give a folder with all its files")
    for part in parts.keys() - wanted.keys():
        raise CheckpointError(
            f"{parts[part].path} holds {PARTS[part]}, which {name} does not need; take it out"
        )


def fill_patches(vision: Dinov2Patches | Dinov3Patches, part: Part) -> None:
    """Load a backbone with official or timm's names."""
    if isinstance(vision, Dinov3Patches):
        official.fill_backbone(vision, part.tensors, part.path)
    else:
        fill_backbone(vision.backbone, part.tensors, part.path)
