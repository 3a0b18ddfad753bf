"""Ablations of the paper's tables, and of our own, as changes of a recipe: ``--variant NAME``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.presets import PRESETS as DINOV3SEG_PRESETS
from ovsdino.network.config import PRESETS as OVSDINO_PRESETS
from ovsdino.network.config import ModelConfig
from ovsdino.training.recipe import Recipe, RecipeError

PRESETS: dict[str, ModelConfig | Dinov3segConfig] = {**OVSDINO_PRESETS, **DINOV3SEG_PRESETS}
Change = Callable[[Recipe], Recipe]
Target = Literal["sam", "hed", "gradients", "none"]


def network(suffix: str) -> Change:
    """Return a change to the preset whose name ends with ``suffix``."""

    def change(recipe: Recipe) -> Recipe:
        name = f"{recipe.model.name}-{suffix}"
        if name not in PRESETS:
            raise RecipeError(f"--variant: {recipe.model.name} has no variant {suffix}")
        return replace(recipe, model=PRESETS[name])

    return change


def with_structure(recipe: Recipe, target: Target) -> Recipe:
    """Choose what the structure-aware encoder is aligned with.

    "sam": the paper's choice. "hed" and "gradients", where there is no SAM. "none": nothing.

    Raises:
        RecipeError: the network has no such encoder.
    """
    model = recipe.model
    if isinstance(model, Dinov3segConfig) or (target != "none" and not model.encoder):
        raise RecipeError(f"--structure {target}: {model.name} has no structure-aware encoder to align")
    factor = float(target != "none")
    weights = replace(recipe.weights, align_cosine=factor, align_mse=factor)
    return replace(recipe, weights=weights, data=replace(recipe.data, structure_target=target))


def without_alignment(recipe: Recipe) -> Recipe:
    """Remove the structural target: Table 2's "w/o SA"."""
    return with_structure(recipe, "none")


def first_dino(recipe: Recipe) -> Recipe:
    """Use the first DINO's ViT-B/16 as backbone: Table 5."""
    if recipe.model.name != "ovsdino-vitb14":
        raise RecipeError(f"--variant dino-v1: only ovsdino-vitb14 has it, not {recipe.model.name}")
    return replace(recipe, model=PRESETS["ovsdino-vitb16-dino"])


def with_gradients(recipe: Recipe) -> Recipe:
    """Align the encoder with image gradients instead of SAM's features; not in the paper."""
    return with_structure(recipe, "gradients")


def unbalanced(recipe: Recipe) -> Recipe:
    """Weight all pixels equally in the cross-entropy; for `nano`, since the paper has no cross-entropy."""
    return replace(recipe, data=replace(recipe.data, balance=0.0))


VARIANTS: dict[str, Change] = {
    "ours": lambda recipe: recipe,
    "no-sam": without_alignment,
    "no-encoder": network("no-encoder"),
    "no-gate": network("no-gate"),
    "four-taps": network("four-taps"),
    "frozen": network("frozen"),
    "dino-v1": first_dino,
    "registers": network("registers"),
    "gradients": with_gradients,
    "unbalanced": unbalanced,
}


def with_clip(recipe: Recipe) -> Recipe:
    """Replace dino.txt by CLIP ViT-L/14, with squares that are multiples of its patches."""
    if recipe.model.name != "dinov3seg-vitl16":
        raise RecipeError(f"--variant clip: only dinov3seg-vitl16 has it, not {recipe.model.name}")
    model = DINOV3SEG_PRESETS["dinov3seg-vitl14-clip"]
    phases = tuple(replace(phase, size=model.crop) for phase in recipe.phases)
    data = replace(recipe.data, size=model.crop, largest=model.crop)
    return replace(recipe, model=model, phases=phases, data=data)


DINOV3SEG_VARIANTS: dict[str, Change] = {
    "ours": lambda recipe: recipe,
    "global": network("global"),
    "local": network("local"),
    "no-early": network("no-early"),
    "no-late": network("no-late"),
    "no-prior": network("no-prior"),
    "clip": with_clip,
}


def apply_variant(recipe: Recipe, name: str) -> Recipe:
    """Return the recipe of a variant.

    Raises:
        RecipeError: there is no such variant of this network.
    """
    variants = DINOV3SEG_VARIANTS if isinstance(recipe.model, Dinov3segConfig) else VARIANTS
    if name not in variants:
        raise RecipeError(f"--variant {name}: unknown, expected one of {', '.join(variants)}")
    changed = variants[name](recipe)
    return changed if name == "ours" else replace(changed, name=f"{recipe.name}, {name}")
