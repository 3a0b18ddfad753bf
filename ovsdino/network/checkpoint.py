"""Read and write weights: our own checkpoints, and public backbones from which training starts."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ovsdino.network.backbone import Backbone, resize_positions
from ovsdino.network.config import PRESETS, ModelConfig
from ovsdino.network.model import OVSDINO
from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.bundle.models import packaged_models

PACKAGED = ("nano",)  # presets whose weights lie in the package, in their bundle
VISION, TEXT, TOKENIZER = "vision.safetensors", "text.safetensors", "tokenizer.json"  # in a bundle


class CheckpointError(OvsdinoError):
    """A checkpoint is missing, broken, or belongs to another model."""


class Configuration(Protocol):
    """A network configuration that can be stored as JSON."""

    def to_dict(self) -> dict[str, Any]: ...


class Configured(Protocol):
    """A network with its configuration: OVS-DINO or dinov3.seg."""

    @property
    def config(self) -> Configuration: ...

    def state_dict(self) -> dict[str, Any]: ...


def save_model(model: Configured, path: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write the weights atomically, with the configuration as metadata: a crash leaves the old file.

    Args:
        model: the network.
        path: a ``.safetensors`` file.
        dtype: precision of the floating-point weights on disk.
    """
    tensors = {name: value.detach().to(dtype).contiguous() for name, value in model.state_dict().items()}
    with partial_file(path) as partial:
        save_file(tensors, partial, metadata={"config": json.dumps(model.config.to_dict())})


def survives_half(model: nn.Module) -> bool:
    """Tell whether FP16 represents every weight exactly, as after loading an FP16 file."""
    return all(torch.equal(value, value.half().to(value.dtype)) for value in model.state_dict().values())


def load_model(name: str, checkpoint: Path | None = None) -> OVSDINO:
    """Build a preset and load its weights: those of ``checkpoint``, else the packaged ones.

    Example:
        >>> network = load_model("nano")
        >>> network = load_model("ovsdino-vitb14", Path("run/best.safetensors"))

    Args:
        name: a key of :data:`ovsdino.network.config.PRESETS`.
        checkpoint: a file written by :func:`save_model`.

    Returns:
        The network in eval mode, FP32.

    Raises:
        CheckpointError: unknown preset, no weights, or weights of another network.
    """
    if name not in PRESETS:
        raise CheckpointError(f"unknown model {name!r}; known: {', '.join(PRESETS)}")
    if checkpoint is not None:
        return read_model(PRESETS[name], checkpoint)
    if name not in PACKAGED:
        raise CheckpointError(
            f"{name} has no public weights: give a checkpoint that you trained (--checkpoint FILE)"
        )
    return read_model(PRESETS[name], packaged_file(VISION, name))


def packaged_file(file: str, name: str = "nano") -> Path:
    """Return the path of a file of a packaged model.

    The weights are stored only once, in the model's bundle, which the runtime reads as well.
    """
    return packaged_models()[name] / file


def read_model(config: ModelConfig, path: Path) -> OVSDINO:
    """Load a checkpoint of exactly this configuration's shapes, strictly."""
    tensors = read_tensors(path)
    with torch.device("meta"):  # every weight comes from the file: draw no random ones
        model = OVSDINO(config)
    check_keys(shapes(model), tensors, path=path, name=config.name)
    require_floats(tensors, tensors, path)
    model.load_state_dict({key: value.float() for key, value in tensors.items()}, assign=True)
    return model.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file, or a torch file of plain tensors (``weights_only``).

    Raises:
        CheckpointError: the file is missing or broken, would run code, or contains values that are not
            weights.
    """
    tensors = _read_any(path)
    check_values(tensors, path)
    return tensors


def check_values(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Reject complex, boolean and sparse weights, and values that are not finite.

    Integers are accepted: counters, tables of positions and the like.

    Raises:
        CheckpointError: the message names the tensor and what is wrong with it.
    """
    for name, value in tensors.items():
        if value.dtype.is_complex or value.is_quantized or value.is_sparse:
            raise CheckpointError(
                f"{path}: {name} is {value.dtype}, {value.layout}: expected dense real numbers; convert it"
            )
        if not value.dtype.is_floating_point:
            continue
        finite = torch.isfinite(value if value.itemsize > 1 else value.float())  # none for 8 bits
        if not finite.all():
            wrong = int((~finite).sum())
            raise CheckpointError(
                f"{path}: {name} holds {wrong} values that are not finite; the file is damaged, or the "
                "training diverged: take an earlier checkpoint"
            )


def require_floats(names: Iterable[str], tensors: Mapping[str, Tensor], path: Path) -> None:
    """Reject weights that are whole numbers or truth values.

    Args:
        names: of the weights that are numbers with a fraction in the network.
        tensors: what the file holds.
        path: of the file.

    Raises:
        CheckpointError: the message names the first few tensors and their types.
    """
    if wrong := sorted(name for name in names if not tensors[name].dtype.is_floating_point):
        dtypes = ", ".join(f"{name} {tensors[name].dtype}" for name in wrong[:3])
        raise CheckpointError(f"{path}: weights must be floating-point numbers, got {dtypes}")


def _read_any(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise CheckpointError(f"no checkpoint at {path.absolute()}; check the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        refuse_torchscript(path)
        raw = torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a broken file makes torch.load raise anything: KeyError, TypeError, ...
        if code := re.search(r"GLOBAL (\S+)", str(error)):
            raise CheckpointError(
                f"{path}: a pickle that would run code ({code[1]}); only files of plain tensors are read"
            ) from error
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{path}: not a readable checkpoint ({reason})") from error
    for wrapper in ("state_dict", "model", "teacher"):
        if isinstance(raw, dict) and isinstance(raw.get(wrapper), dict):
            raw = raw[wrapper]
    if not isinstance(raw, dict) or not all(isinstance(value, Tensor) for value in raw.values()):
        raise CheckpointError(f"{path}: expected a dictionary of tensors, got {type(raw).__name__}")
    return raw


def refuse_torchscript(path: Path) -> None:
    """Reject a TorchScript archive, such as OpenAI's own CLIP files, because it contains code."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any(name.endswith("/constants.pkl") for name in names):
            raise CheckpointError(
                f"{path}: a TorchScript archive, which holds code; give a file of plain tensors (of OpenAI's "
                "CLIP ViT-B/16: open_clip_model.safetensors, see `ovsdino models`)"
            )


def read_config(path: Path) -> ModelConfig:
    """Read the configuration that :func:`save_model` stored with the weights."""
    try:
        with safe_open(regular_file(path), framework="pt") as file:
            return ModelConfig.from_dict(json.loads((file.metadata() or {})["config"]))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: no model configuration inside; was it written by ovsdino?") from error


def check_keys(
    wanted: Mapping[str, torch.Size], given: Mapping[str, Tensor], *, path: Path, name: str
) -> None:
    """Reject weights that do not match a module; errors name missing, unexpected and mis-shaped keys."""
    misshaped = [
        f"{key} {tuple(given[key].shape)} instead of {tuple(wanted[key])}"
        for key in sorted(wanted.keys() & given.keys())
        if given[key].shape != wanted[key]
    ]
    kinds = {
        "missing": sorted(wanted.keys() - given.keys()),
        "unexpected": sorted(given.keys() - wanted.keys()),
        "mis-shaped": misshaped,
    }
    faults = [f"{len(keys)} {kind} ({shorten(keys)})" for kind, keys in kinds.items() if keys]
    if faults:
        raise CheckpointError(f"{path} is not a checkpoint of {name}: {'; '.join(faults)}")


def fill(module: nn.Module, tensors: dict[str, Tensor], *, path: Path, name: str) -> None:
    """Load tensors into a module as FP32, strictly; errors name the keys that do not match."""
    check_keys(shapes(module), tensors, path=path, name=name)
    floats = [key for key, value in module.state_dict().items() if value.dtype.is_floating_point]
    require_floats(floats, tensors, path)
    module.load_state_dict({key: value.float() for key, value in tensors.items()})


def shapes(module: nn.Module) -> dict[str, torch.Size]:
    """Return the shape of each entry of a module's state."""
    return {key: value.shape for key, value in module.state_dict().items()}


def shorten(keys: list[str], max_count: int = 3) -> str:
    """Join the first few keys for a message."""
    return ", ".join(keys[:max_count]) + (", ..." if len(keys) > max_count else "")


def load_backbone(backbone: Backbone, path: Path) -> None:
    """Load a public ViT checkpoint, in timm's or the official key names, into a backbone, strictly.

    The position embedding is resized if the checkpoint has another grid; a classifier is ignored.

    Args:
        backbone: the network to fill, in place.
        path: the checkpoint: safetensors or a torch file of tensors.

    Raises:
        CheckpointError: the file is missing, broken, or not of this backbone.
    """
    fill_backbone(backbone, read_tensors(path), path)


def fill_backbone(backbone: Backbone, tensors: dict[str, Tensor], path: Path) -> None:
    """Load tensors of a public ViT into a backbone, strictly; ``path`` is their file, for messages."""
    tensors = official_to_timm(tensors, backbone)
    tensors = {key: value for key, value in tensors.items() if not key.startswith("head.")}
    side = backbone.config.position_grid
    embedding = tensors.get("pos_embed")
    if embedding is not None and embedding.ndim == 3:
        prefix = embedding[:, : int(not backbone.vit.no_embed_class)]
        positions = embedding[:, prefix.shape[1] :]
        resized = resize_positions(
            positions,
            (side, side),
            offset=backbone.config.position_offset,
            antialias=backbone.config.position_antialias,
        )
        tensors["pos_embed"] = torch.cat([prefix, resized], dim=1)
    fill(backbone.vit, tensors, path=path, name=backbone.config.backbone)


def official_to_timm(tensors: dict[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """Rename an official DINOv2 checkpoint's keys to timm's; timm's own pass unchanged.

    Official files hold a ``mask_token`` that inference never uses, call the registers ``register_tokens``,
    and give the class token a position even with registers, which timm adds into the token itself.
    """
    if "mask_token" not in tensors:
        return tensors
    renamed = {key: value for key, value in tensors.items() if key not in {"mask_token", "register_tokens"}}
    if "register_tokens" in tensors:
        renamed["reg_token"] = tensors["register_tokens"]
    if backbone.vit.no_embed_class and "pos_embed" in renamed and "cls_token" in renamed:
        renamed["cls_token"] = renamed["cls_token"] + renamed["pos_embed"][:, :1]
        renamed["pos_embed"] = renamed["pos_embed"][:, 1:]
    return renamed
