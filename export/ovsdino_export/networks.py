"""Load the networks that `export_bundle` exports: OVS-DINO and the published models of the zoo."""

from __future__ import annotations

from pathlib import Path

from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from ovsdino.dinov3seg.presets import PRESETS as DINOV3SEG_PRESETS
from ovsdino.network.checkpoint import load_model
from ovsdino.network.clip_text import CONTEXT
from ovsdino.network.config import PRESETS, ModelConfig, window_taper
from ovsdino.network.model import OVSDINO
from ovsdino.zoo import catalogue, checkpoint, store
from ovsdino.zoo.config import TALK2DINO, ZERO_SHOT, ZooConfig
from ovsdino.zoo.network import ZooNetwork
from ovsdino.zoo.talk2dino import ProjectedText, RawText, Talk2DinoText
from ovsdino_export.clip import clip_tokenizer
from ovsdino_export.rewrite.rewrite import restate
from ovsdino_export.rewrite.vit import fix_positions
from ovsdino_export.text import TextHalf, load_text_half
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.refine import Refinement
from ovsdino_runtime.geometry.windows import WindowPolicy
from ovsdino_runtime.text.vocabulary import load_templates

Network = OVSDINO | ZooNetwork
Config = ModelConfig | ZooConfig

LONG_SIDE = 2048  # [px] of the evaluation protocol that the papers share
PROGRAM = "program: Apache-2.0"
LICENCES = {
    "nano": (
        "program and weights: Apache-2.0",
        "ViT-Ti/16 (AugReg, timm), from which the weights were trained: Apache-2.0",
        "all-MiniLM-L6-v2, from which the text encoder was distilled: Apache-2.0",
        "Open English WordNet, LVIS names and COCO captions, whose words it was distilled on: CC BY 4.0",
    )
}
OTHER_LICENCES = (PROGRAM, "weights: the licence of the checkpoint that was exported")


def load_network(name: str, weights: Path | None, text_weights: Path | None) -> tuple[Network, TextHalf]:
    """Load a model and its text encoder.

    Args:
        name: a preset of OVS-DINO or of the zoo.
        weights: weights of the model; for the zoo also a folder of official files. None uses the packaged
            weights, or those that `ovsdino models fetch` downloaded.
        text_weights: weights of the text encoder; for the zoo any official file that is not in ``weights``.

    Raises:
        OvsdinoError: the name is unknown, or weights are missing or belong to another network.
    """
    if name in TALK2DINO or name in ZERO_SHOT:
        paths = [path for path in (weights, text_weights) if path is not None] or [store.fetched(name)]
        network, tower = checkpoint.load(name, paths)
        templates = load_templates(network.config.templates)
        if isinstance(tower, Talk2DinoText):
            raw, projection = RawText(tower), ProjectedText(tower)
            return network, TextHalf(
                tower=raw,
                tokenizer=clip_tokenizer(),
                context_length=CONTEXT,
                templates=templates,
                projection=projection,
            )
        return network, TextHalf(
            tower=tower, tokenizer=clip_tokenizer(), context_length=CONTEXT, templates=templates
        )
    if name not in PRESETS:
        known = (*PRESETS, *DINOV3SEG_PRESETS, *TALK2DINO, *ZERO_SHOT)
        raise OvsdinoError(f"unknown model {name!r}; known: {', '.join(known)}")
    model = load_model(name, weights)
    if not model.config.encoder:
        raise OvsdinoError(f"{name} takes SAM's features beside the photo: it is for study, not for export")
    return model, load_text_half(model.config, text_weights)


def restate_network(network: Network) -> Network:
    """Restate a network for its own grid; see `ovsdino_export.rewrite.rewrite.restate`."""
    restated = restate(network)
    if isinstance(restated, ZooNetwork) and isinstance(
        vit := restated.vision.backbone, Eva | VisionTransformer
    ):
        side = restated.config.image_size // restated.config.patch_size
        fix_positions(vit, (side, side))
    return restated


def preprocessing(config: Config) -> Preprocessing:
    """Return how a model preprocesses photos."""
    short = config.image_size if isinstance(config, ModelConfig) else config.short_side
    return Preprocessing(short, max(LONG_SIDE, short), mean=config.mean, std=config.std)


def windows(config: Config) -> WindowPolicy:
    """Return how a model cuts photos into windows."""
    stride = config.image_size // 2 if isinstance(config, ModelConfig) else config.stride
    taper = window_taper(config) if isinstance(config, ModelConfig) else None
    return WindowPolicy(config.image_size, stride, taper=taper)


def refinement(config: Config) -> Refinement | None:
    """Return the default refinement of a model's labels: nano has one, the papers' protocols have none."""
    return Refinement() if isinstance(config, ModelConfig) and window_taper(config) is not None else None


def licences(name: str) -> tuple[str, ...]:
    """Return the licences of the parts of a bundle."""
    if name in catalogue.ENTRIES:
        return PROGRAM, f"weights: {catalogue.ENTRIES[name].licence}"
    return LICENCES.get(name, OTHER_LICENCES)
