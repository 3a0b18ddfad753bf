"""Parameter groups, AdamW, and the schedule: warm-up and cosine."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ovsdino.dinov3seg.fine_tuning import QueryValueTuning, key_rows
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.config import ModelConfig
from ovsdino.network.model import OVSDINO
from ovsdino.training.recipe import Recipe

BACKBONE = "backbone."
BLOCKS = "backbone.vit.blocks."
VLM, VLM_HEAD = "vlm.", "vlm.vision.head."


@dataclass(frozen=True)
class Parts:
    """A network's parameters by learning rate, each with its name."""

    new: dict[str, Parameter]  # SAE, SMD, gate, projector, head; all but the VLM
    tuned: dict[str, Parameter]  # the backbone's last blocks; of the VLM
    frozen: Mapping[str, Tensor]
    tuning: QueryValueTuning | None = None  # keeps the frozen rows of matrices that learn

    @property
    def trained(self) -> list[Parameter]:
        """All that learn."""
        return [*self.new.values(), *self.tuned.values()]


def split_parameters(model: OVSDINO) -> Parts:
    """Return the trained parameters and their rates.

    Of the backbone these are its last ``trained_blocks`` blocks, and where that is all of them, patch and
    position embedding and the final norm as well.

    Source: OVS-DINO, section 4; that the final norm stays as it is, is our reconstruction.
    """
    new: dict[str, Parameter] = {}
    tuned: dict[str, Parameter] = {}
    frozen: dict[str, Parameter] = {}
    for name, parameter in model.named_parameters():
        if not name.startswith(BACKBONE):
            new[name] = parameter
        elif is_tuned(name, model.config):
            tuned[name] = parameter
        else:
            frozen[name] = parameter
    return Parts(new, tuned, frozen)


def is_tuned(name: str, config: ModelConfig) -> bool:
    """Tell whether a parameter of the backbone is trained."""
    if config.trained_blocks == config.backbone_depth:
        return True
    first = config.backbone_depth - config.trained_blocks
    return name.startswith(BLOCKS) and int(name.removeprefix(BLOCKS).split(".")[0]) >= first


def split_dinov3seg_parameters(model: Dinov3Seg, recipe: Recipe) -> Parts:
    """Return dinov3.seg's trained parameters and their rates.

    The VLM learns slowly: the queries and values of all its attentions, the rest is frozen ("query-value");
    or its backbone and the text tower's queries and values, and its head as fast as what is new ("vision").

    Source: dinov3.seg is silent; the former is CAT-Seg's, the latter ours, for a VLM that was never aligned.
    """
    whole_vision = recipe.vlm_learns == "vision"
    tuning = QueryValueTuning(model.vlm.text if whole_vision else model.vlm)
    new: dict[str, Parameter] = {}
    tuned: dict[str, Parameter] = {}
    frozen: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen[name] = parameter
        elif name.startswith(VLM) and not (whole_vision and name.startswith(VLM_HEAD)):
            tuned[name] = parameter
        else:
            new[name] = parameter
    names = {parameter: name for name, parameter in tuned.items()}
    frozen |= {f"{names[one.weight]}, keys": key_rows(one.weight).detach() for one in tuning.fused}
    return Parts(new, tuned, frozen, tuning)


def prepare(model: OVSDINO) -> Parts:
    """Freeze the parameters of OVS-DINO that are not trained."""
    parts = split_parameters(model)
    for parameter in parts.frozen.values():
        parameter.requires_grad_(False)
    wake(model)
    return parts


def wake(model: nn.Module) -> None:
    """Go on learning: train mode, but eval mode in modules without a learning parameter."""
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Hash weights bit by bit: equal hashes mean that nothing has touched them."""
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters.items()):
        raw = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def make_optimizer(parts: Parts, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW over the tuned and the new weights; a group's ``peak`` is its rate after the warm-up.

    Weight decay acts on all of them, gate, head, norms and biases included, unless the recipe says
    ``matrices``: then only on weights of two or more dimensions.
    """
    groups = [
        {"params": chosen, "lr": peak, "peak": peak, "weight_decay": decay}
        for parameters, peak in ((parts.tuned, recipe.backbone_rate), (parts.new, recipe.new_rate))
        for chosen, decay in _by_decay(list(parameters.values()), recipe)
        if chosen
    ]
    optimizer = torch.optim.AdamW(groups, betas=recipe.betas, weight_decay=recipe.weight_decay)
    if parts.tuning is not None:
        parts.tuning.watch(optimizer)
    return optimizer


def _by_decay(parameters: list[Parameter], recipe: Recipe) -> list[tuple[list[Parameter], float]]:
    """Split parameters into those that decay and those that do not."""
    if recipe.decayed == "all":
        return [(parameters, recipe.weight_decay)]
    matrices = [parameter for parameter in parameters if parameter.squeeze().ndim > 1]
    others = [parameter for parameter in parameters if parameter.squeeze().ndim <= 1]
    return [(matrices, recipe.weight_decay), (others, 0.0)]


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


def clip_gradients(parameters: list[Parameter], max_count: float) -> torch.Tensor:
    """Scale all gradients together so that their norm is at most ``most``; returns the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_count)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, *, step: int, decay: float) -> None:
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


def _pairs(average: nn.Module, model: nn.Module) -> Iterator[tuple[Parameter, Parameter]]:
    return zip(average.parameters(), model.parameters(), strict=True)
