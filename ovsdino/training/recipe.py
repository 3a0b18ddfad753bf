"""Training recipes of both systems: every hyperparameter, and the presets.

Whatever a paper does not state is a field with our reconstruction as default; ``docs/systems.md`` lists
these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.presets import TINY, VITL16
from ovsdino.network.config import NANO, VITB14, ModelConfig
from ovsdino.training.data_recipe import (
    DINOV3SEG_DATA,
    DINOV3SEG_TINY_DATA,
    DINOV3SEG_TINY_WEIGHTS,
    DINOV3SEG_WEIGHTS,
    NANO_DATA,
    NANO_WEIGHTS,
    DataRecipe,
    LossWeights,
)
from ovsdino_runtime.base.errors import OvsdinoError

Precision = Literal["fp32", "bf16", "fp16"]
PAPER_DATA, PAPER_WEIGHTS = DataRecipe(), LossWeights()
MAX_NAMED = 4  # changed settings that a message names


class RecipeError(OvsdinoError):
    """A recipe is invalid; the message names the setting and valid values."""


@dataclass(frozen=True)
class Phase:
    """A number of epochs or steps at one size of the training square."""

    size: int  # [px]
    epochs: int  # 0 where there are steps
    batch: int  # photos of a step, over all processes
    micro_batch: int  # reconstructed: photos that go through the network together and share negatives
    steps: int = 0  # in place of epochs: as many as that takes, the last one cut short


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides the result of a run, except photos and masks. The defaults are the paper's.

    Example:
        >>> from ovsdino.training.recipe import RECIPES, with_epochs
        >>> recipe = with_epochs(RECIPES["nano"], 20)

    Raises:
        RecipeError: settings contradict each other.
    """

    name: str = "paper"
    model: ModelConfig | Dinov3segConfig = VITB14
    data: DataRecipe = PAPER_DATA
    weights: LossWeights = PAPER_WEIGHTS

    phases: tuple[Phase, ...] = (Phase(size=448, epochs=25, batch=64, micro_batch=8),)
    warmup_epochs: float = 1.0  # of the first phase; linear, then a cosine to 0 over the rest
    new_rate: float = 1e-4  # reconstructed: SAE, SMD, gate, projector, head; all but the VLM
    backbone_rate: float = 1e-5  # reconstructed: the backbone's trained blocks; the VLM
    vlm_learns: Literal["query-value", "vision"] = "query-value"  # of dinov3.seg; reconstructed
    weight_decay: float = 0.05  # reconstructed
    decayed: Literal["all", "matrices"] = "all"  # reconstructed: matrices leaves out norms, biases, scalars
    word_templates: str | None = None  # a set of prompts; None: ImageNet's 80 for CLIP, none for nano
    betas: tuple[float, float] = (0.9, 0.999)  # reconstructed
    clip: float = 1.0  # reconstructed: most that the gradient's norm may be
    precision: Precision = "bf16"  # reconstructed
    average: float = 0.0  # reconstructed: decay of a running average of the weights; 0 for none
    weights_dtype: Literal["float32", "float16"] = "float32"  # of last.safetensors and best.safetensors
    seed: int = 0

    def __post_init__(self) -> None:
        for phase in self.phases:
            if min(max(phase.epochs, phase.steps), phase.batch, phase.micro_batch) < 1:
                raise RecipeError(f"epochs and batches must be at least 1, got {phase}")
            if phase.batch % phase.micro_batch:
                raise RecipeError(
                    f"a batch must be a multiple of the micro-batch, got {phase.batch} and "
                    f"{phase.micro_batch}; give --micro-batch a divisor of {phase.batch}"
                )
            if phase.size % self.model.patch_size:
                raise RecipeError(
                    f"the training square must be a multiple of the patch, {self.model.patch_size} px, "
                    f"got {phase.size}"
                )
        if self.warmup_epochs and self.epochs and self.warmup_epochs >= self.epochs:
            raise RecipeError(
                f"the warm-up takes {self.warmup_epochs:g} epochs, so there must be more than that in all, "
                f"got {self.epochs}"
            )

    @property
    def epochs(self) -> int:
        """Number of epochs of all phases."""
        return sum(phase.epochs for phase in self.phases)

    @property
    def needs_hed(self) -> bool:
        """Tell whether HED must encode the squares."""
        return self.data.structure_target == "hed" and self.weights.align

    @property
    def needs_teacher(self) -> bool:
        """Tell whether SAM must encode the photos, as alignment target or instead of the encoder."""
        if isinstance(self.model, Dinov3segConfig):  # its SAM is a part of the network
            return False
        return self.data.structure_target == "sam" and (self.weights.align or not self.model.encoder)

    def data_of(self, phase: Phase) -> DataRecipe:
        """Return the data recipe of a phase."""
        return replace(self.data, size=phase.size, largest=max(phase.size, self.data.largest), seed=self.seed)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain JSON values."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain


PAPER = Recipe()

NANO_RECIPE = Recipe(
    name="nano",
    model=NANO,
    data=NANO_DATA,
    weights=NANO_WEIGHTS,
    phases=(
        Phase(size=288, epochs=9, batch=16, micro_batch=16),
        Phase(size=448, epochs=1, batch=12, micro_batch=12),
    ),
    warmup_epochs=0.24,
    new_rate=1e-3,
    backbone_rate=1.5e-4,
    average=0.995,
    weights_dtype="float16",
)

# CAT-Seg ViT-L's, all reconstructed: dinov3.seg's own numbers are not known.
DINOV3SEG_RECIPE = Recipe(
    name="dinov3.seg",
    model=VITL16,
    data=DINOV3SEG_DATA,
    weights=DINOV3SEG_WEIGHTS,
    phases=(Phase(size=384, epochs=0, batch=4, micro_batch=4, steps=80_000),),
    warmup_epochs=0.0,
    new_rate=2e-4,
    backbone_rate=2e-6,
    weight_decay=1e-4,
    clip=0.01,
)

# Its VLM starts from an image classifier and a text tower that never met: the vision tower learns wholly,
# and the correlation has a loss of its own.
DINOV3SEG_TINY_RECIPE = Recipe(
    name="dinov3.seg, tiny",
    model=TINY,
    data=DINOV3SEG_TINY_DATA,
    weights=DINOV3SEG_TINY_WEIGHTS,
    phases=(Phase(size=224, epochs=0, batch=8, micro_batch=8, steps=800),),
    warmup_epochs=0.0,
    new_rate=1e-3,
    backbone_rate=2e-4,
    vlm_learns="vision",
    weight_decay=0.05,
    clip=1.0,
)

RECIPES = {
    "ovsdino-vitb14": PAPER,
    "nano": NANO_RECIPE,
    "dinov3seg-vitl16": DINOV3SEG_RECIPE,
    "dinov3seg-tiny": DINOV3SEG_TINY_RECIPE,
}


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """Change the number of epochs: the last of several phases keeps its share, the first takes the rest.

    Raises:
        RecipeError: there are too few epochs for the phases or the warm-up.
    """
    if epochs < len(recipe.phases):
        raise RecipeError(
            f"--epochs {epochs}: {recipe.name} has {len(recipe.phases)} phases, give at least as many epochs"
        )
    first, *rest = (replace(phase, steps=0) for phase in recipe.phases)
    scaled = [replace(p, epochs=max(1, round(epochs * p.epochs / recipe.epochs))) for p in rest]
    left = epochs - sum(phase.epochs for phase in scaled)
    return replace(recipe, phases=(replace(first, epochs=left), *scaled))


def with_steps(recipe: Recipe, steps: int) -> Recipe:
    """Set the number of steps of a recipe with one phase.

    Raises:
        RecipeError: the recipe has several phases.
    """
    if len(recipe.phases) > 1:
        raise RecipeError(
            f"--steps {steps}: {recipe.name} has {len(recipe.phases)} phases; give --epochs or --phase"
        )
    return replace(recipe, phases=(replace(recipe.phases[0], epochs=0, steps=steps),))


def with_batch(recipe: Recipe, batch: int | None, micro_batch: int | None) -> Recipe:
    """Change the batch size and the micro-batch size.

    Raises:
        RecipeError: the batch is not a multiple of the micro-batch.
    """

    def change(phase: Phase) -> Phase:
        whole = batch or phase.batch
        return replace(phase, batch=whole, micro_batch=micro_batch or min(phase.micro_batch, whole))

    return replace(recipe, phases=tuple(change(phase) for phase in recipe.phases))


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Describe the first few settings that differ, with both values."""
    before, after = _flat(old), _flat(new)
    changed = [
        f"{key} was {before.get(key, 'absent')}, is {after.get(key, 'absent')}"
        for key in sorted(before.keys() | after.keys())
        if before.get(key, "absent") != after.get(key, "absent")
    ]
    return changed[:MAX_NAMED] + [f"and {len(changed) - MAX_NAMED} more"] * (len(changed) > MAX_NAMED)


def _flat(tree: object, prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names."""
    if isinstance(tree, Mapping):
        parts = [_flat(value, f"{prefix}.{key}" if prefix else str(key)) for key, value in tree.items()]
    elif isinstance(tree, list) and any(isinstance(value, dict | list) for value in tree):
        parts = [_flat(value, f"{prefix}.{number}") for number, value in enumerate(tree)]
    else:
        return {prefix: tree}
    return {key: value for part in parts for key, value in part.items()}
