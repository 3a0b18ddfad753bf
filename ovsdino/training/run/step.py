"""One training step: loss terms, gradients, update."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovsdino.training.data.batch import Batch
from ovsdino.training.data_recipe import DataRecipe, LossWeights
from ovsdino.training.distributed import Team
from ovsdino.training.optimizer import clip_gradients, follow, set_rate
from ovsdino.training.recipe import Precision, Recipe, RecipeError
from ovsdino.training.run.checkpointing import Learner
from ovsdino_runtime.base.errors import OvsdinoError

TERMS = tuple(field.name for field in fields(LossWeights))
Loss = Callable[[Any, Batch, DataRecipe], dict[str, Tensor]]  # of a network
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class DivergedError(OvsdinoError):
    """The loss or the gradient is not finite."""


class Objective(nn.Module):
    """The weighted sum of the loss terms (eq. 16) as a module, as DDP requires.

    Shape: a batch -> scalar, and the terms without their weights (T,).
    """

    def __init__(self, model: nn.Module, data: DataRecipe, *, weights: LossWeights, loss: Loss) -> None:
        super().__init__()
        self.model, self.data, self.loss = model, data, loss
        self.weights = {name: float(getattr(weights, name)) for name in TERMS}

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the loss and its terms."""
        terms = self.loss(self.model, batch, self.data)
        nothing = batch.pixels.new_zeros(())
        weighted = [weight * terms[name] for name, weight in self.weights.items() if weight and name in terms]
        named = [terms[name].detach() if name in terms else nothing for name in TERMS]
        return sum(weighted, start=nothing), torch.stack(named)


class Stepper:
    """Take training steps.

    Args:
        learner: network, optimizer and running average.
        recipe: the training recipe.
        data: the data recipe of the phase.
        team: this process and the others.
        loss: computes the loss terms of the system.
    """

    def __init__(self, learner: Learner, recipe: Recipe, *, data: DataRecipe, team: Team, loss: Loss) -> None:
        self.learner, self.recipe, self.team = learner, recipe, team
        objective = Objective(learner.model, data, weights=recipe.weights, loss=loss)
        # A depthwise weight has one input channel, whose stride means nothing; DDP warns that it differs.
        warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
        self.shared = (
            DistributedDataParallel(objective, find_unused_parameters=True) if team.size > 1 else None
        )
        self.objective: nn.Module = self.shared or objective

    def __call__(self, batches: Iterable[Batch], count: int, factor: float) -> dict[str, float]:
        """Train on this process's share of a batch.

        Args:
            batches: ``count`` micro-batches, on the device.
            count: number of micro-batches.
            factor: factor on the peak learning rates.

        Returns:
            The loss, its terms, the gradient norm and the rate factor, over all processes.

        Raises:
            DivergedError: a number is not finite; the message names the step and the photos.
        """
        learner = self.learner
        set_rate(learner.optimizer, factor)
        torch.manual_seed(hash((self.recipe.seed, learner.step, self.team.rank)))
        terms_and_loss, photos = [], []
        for number, batch in enumerate(batches):
            terms_and_loss.append(self._gradients(batch, count, last=number == count - 1))
            photos.append(batch.photos)
        learner.scaler.unscale_(learner.optimizer)
        norm = clip_gradients(learner.parts.trained, self.recipe.clip)
        local = torch.stack(terms_and_loss)  # (A, T + 1)
        figures = torch.cat([self.team.mean(local.mean(0)), norm.detach()[None]]).tolist()
        self._check(figures, local, photos)
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
        learner.optimizer.zero_grad(set_to_none=True)
        if learner.average is not None:
            follow(learner.average, learner.model, step=learner.step, decay=self.recipe.average)
        learner.step += 1
        *terms, loss, length = figures
        named = {
            name: term for name, term in zip(TERMS, terms, strict=True) if getattr(self.recipe.weights, name)
        }
        return {"loss": loss, **named, "gradient": length, "rate": factor}

    def _gradients(self, batch: Batch, count: int, *, last: bool) -> Tensor:
        """Add the gradients of a micro-batch; return the terms and the loss, (T + 1,)."""
        alone = nullcontext() if last or self.shared is None else self.shared.no_sync()
        with alone:
            with whole_autocast(self.recipe.precision, self.team.device):
                loss, terms = self.objective(batch)
            self.learner.scaler.scale(loss / count).backward()
        return torch.cat([terms.float(), loss.detach().float()[None]])

    def _check(self, figures: list[float], local: Tensor, photos: list[tuple[str, ...]]) -> None:
        """Stop all processes if a number is not finite."""
        scaled = self.learner.scaler.is_enabled()  # its first steps may overflow, and are left out
        if all(map(math.isfinite, figures[:-1])) and (scaled or math.isfinite(figures[-1])):
            return
        spoilt = [
            (", ".join(name for name, ok in zip((*TERMS, "loss"), row, strict=True) if not ok), names)
            for row, names in zip(local.isfinite().tolist(), photos, strict=True)
            if not all(row)
        ]
        reports = [report for theirs in self.team.gather(spoilt) for report in theirs]
        term, names = reports[0] if reports else ("the gradient", [name for part in photos for name in part])
        raise DivergedError(
            f"step {self.learner.step + 1}: {term.removesuffix(', loss')} is not finite; "
            f"photos {', '.join(names)}; look at them and their masks, or try --precision fp32"
        )


def use_precision(transformer: nn.Module, precision: Precision, device: torch.device) -> None:
    """Compute a transformer in BF16 on a CPU, the rest in FP32. For a GPU see `whole_autocast`.

    The backward pass of oneDNN's BF16 convolutions takes ten times longer than that of FP32. So on a CPU only
    the transformer uses BF16, and only in training.

    Raises:
        RecipeError: FP16 on a CPU.
    """
    if device.type == "cpu" and precision == "fp16":
        raise RecipeError("--precision fp16 needs a GPU; on a CPU take bf16 or fp32")
    if device.type == "cpu" and precision == "bf16":
        whole = transformer.forward

        def forward(pixels: Tensor) -> Any:  # noqa: ANN401 - whatever the transformer returns
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=torch.is_grad_enabled()):
                output = whole(pixels)
            return output.float() if isinstance(output, Tensor) else output

        transformer.forward = forward


def whole_autocast(precision: Precision, device: torch.device) -> torch.autocast:
    """Return the context in which a GPU computes the whole loss in half precision."""
    enabled = device.type != "cpu" and precision != "fp32"
    return torch.autocast(device.type, dtype=HALF.get(precision), enabled=enabled)
