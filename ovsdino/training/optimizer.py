"""Which weights learn, how fast, and when: parameter groups, AdamW, warm-up and cosine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import Parameter

from ovsdino.config import ModelConfig
from ovsdino.model import OVSDINO
from ovsdino.training.recipe import Recipe

BACKBONE = "backbone."
BLOCKS = "backbone.vit.blocks."


@dataclass(frozen=True)
class Parts:
    """A network's parameters by how they learn, each with its name."""

    new: dict[str, Parameter]  # SAE, SMD, gate, projector, head
    tuned: dict[str, Parameter]  # the backbone's last blocks
    frozen: dict[str, Parameter]

    @property
    def trained(self) -> list[Parameter]:
        """All that learn."""
        return [*self.new.values(), *self.tuned.values()]


def split_parameters(model: OVSDINO) -> Parts:
    """Tell what learns and at which rate.

    Of the backbone these are its last ``trained_blocks`` blocks, and where that is all of them, patch and
    position embedding and the final norm as well.

    Source: OVS-DINO, section 4; that the final norm stays as it is, is our reconstruction.
    """
    parts = Parts({}, {}, {})
    for name, parameter in model.named_parameters():
        if not name.startswith(BACKBONE):
            parts.new[name] = parameter
        elif is_tuned(name, model.config):
            parts.tuned[name] = parameter
        else:
            parts.frozen[name] = parameter
    return parts


def is_tuned(name: str, config: ModelConfig) -> bool:
    """Tell whether a parameter of the backbone learns."""
    if config.trained_blocks == config.backbone_depth:
        return True
    first = config.backbone_depth - config.trained_blocks
    return name.startswith(BLOCKS) and int(name.removeprefix(BLOCKS).split(".")[0]) >= first


def prepare(model: OVSDINO) -> Parts:
    """Freeze what does not learn: no gradients, and modules without a learning parameter in eval mode."""
    parts = split_parameters(model)
    model.train()
    for parameter in parts.frozen.values():
        parameter.requires_grad_(False)
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()
    return parts


def fingerprint(parameters: dict[str, Parameter]) -> str:
    """Hash weights bit by bit: equal hashes mean that nothing has touched them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters.items()):
        raw = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def make_optimizer(parts: Parts, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW over the two groups; each group's ``peak`` is its rate after the warm-up."""
    groups = [
        {"params": list(parameters.values()), "lr": peak, "peak": peak}
        for parameters, peak in ((parts.tuned, recipe.backbone_rate), (parts.new, recipe.new_rate))
        if parameters
    ]
    return torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)


def rate_factor(step: int, *, warm: int, total: int) -> float:
    """Return the factor on every peak rate: linear up to 1, then half a cosine down to 0.

    Source: OVS-DINO, section 4: one warm-up epoch, cosine.

    Args:
        step: number of the step, from 0.
        warm: steps of the warm-up.
        total: all steps, warm-up included, more than ``warm``.
    """
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (total - warm))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to its peak times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def clip_gradients(parameters: list[Parameter], most: float) -> torch.Tensor:
    """Scale all gradients together so that their norm is at most ``most``; returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, most)


@torch.no_grad()
def follow(average: OVSDINO, model: OVSDINO, *, step: int, decay: float) -> None:
    """Move a running average of the weights toward them; early steps count more, so that it starts quickly.

    Args:
        average: changed in place.
        model: the learning network.
        step: number of the step that was just taken, from 0.
        decay: share of the average that a late step keeps.
    """
    keep = min(decay, (step + 1) / (step + 10))
    pairs = [(slow, fast) for slow, fast in _pairs(average, model) if fast.requires_grad]
    torch._foreach_lerp_([slow for slow, _ in pairs], [fast for _, fast in pairs], 1 - keep)


def _pairs(average: OVSDINO, model: OVSDINO) -> Iterator[tuple[Parameter, Parameter]]:
    return zip(average.parameters(), model.parameters(), strict=True)
