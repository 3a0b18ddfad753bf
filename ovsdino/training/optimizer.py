"""Parameter groups, AdamW, and the learning rate schedule: warm-up and cosine."""

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
    """The parameters of a network by learning rate, each with its name."""

    new: dict[str, Parameter]  # SAE, SMD, gate, projector, head; all but the VLM
    tuned: dict[str, Parameter]  # the backbone's last blocks; of the VLM
    frozen: Mapping[str, Tensor]
    tuning: QueryValueTuning | None = None  # keeps the frozen rows of matrices that learn

    @property
    def trained(self) -> list[Parameter]:
        """All trained parameters."""
        return [*self.new.values(), *self.tuned.values()]


def split_parameters(model: OVSDINO) -> Parts:
    """Return the trained parameters by learning rate.

    In the backbone these are the last ``trained_blocks`` blocks; if these are all blocks, also the patch and
    position embedding and the final norm.

    Source: OVS-DINO, section 4; freezing the final norm is our reconstruction.
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
    """Return the trained parameters of dinov3.seg by learning rate.

    "query-value": in the VLM, only queries and values of all attentions are trained, at a low rate.
    "vision": the vision backbone and the text tower's queries and values are trained slowly, the vision
    head at the rate of new layers. Choose it for a VLM whose towers were not aligned before.

    Source: the paper gives no details; "query-value" is CAT-Seg's, "vision" is ours.
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
    frozen |= {f"{names[fused.weight]}, keys": key_rows(fused.weight).detach() for fused in tuning.fused}
    return Parts(new=new, tuned=tuned, frozen=frozen, tuning=tuning)


def prepare(model: OVSDINO) -> Parts:
    """Freeze all parameters of OVS-DINO that are not trained; return the others."""
    parts = split_parameters(model)
    for parameter in parts.frozen.values():
        parameter.requires_grad_(False)
    wake(model)
    return parts


def wake(model: nn.Module) -> None:
    """Switch to train mode, except modules without a trained parameter, which stay in eval mode."""
    model.train()
    for module in model.modules():
        own = list(module.parameters())
        if own and not any(parameter.requires_grad for parameter in own):
            module.eval()


def fingerprint(parameters: Mapping[str, Tensor]) -> str:
    """Hash the bits of weights: equal hashes mean unchanged weights."""
    digest = hashlib.sha256()
    for name, parameter in sorted(parameters.items()):
        raw = parameter.detach().cpu().contiguous().view(-1).view(torch.uint8)
        digest.update(name.encode() + raw.numpy().tobytes())
    return digest.hexdigest()


def make_optimizer(parts: Parts, recipe: Recipe) -> torch.optim.AdamW:
    """Return AdamW over the trained weights; a group's ``peak`` is its rate after the warm-up.

    Weight decay applies to all trained weights, including gate, head, norms and biases. With ``matrices`` it
    applies only to weights of two or more dimensions.
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
        step: index of the step, from 0.
        warm: number of warm-up steps.
        total: number of all steps including the warm-up, more than ``warm``.
    """
    if step < warm:
        return (step + 1) / warm
    return 0.5 + 0.5 * math.cos(math.pi * (step - warm) / (total - warm))


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set each group's rate to its peak times a factor."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * factor


def clip_gradients(parameters: list[Parameter], max_norm: float) -> torch.Tensor:
    """Scale all gradients so that their total norm is at most ``max_norm``; return the norm before."""
    return nn.utils.clip_grad_norm_(parameters, max_norm)


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, *, step: int, decay: float) -> None:
    """Update the running average of the weights; early steps count more, so that it adapts quickly.

    Args:
        average: the averaged network, changed in place.
        model: the network in training.
        step: index of the step that was just taken, from 0.
        decay: share of the average that is kept per step, late in training.
    """
    keep = min(decay, (step + 1) / (step + 10))
    pairs = [(slow, fast) for slow, fast in _pairs(average, model) if fast.requires_grad]
    torch._foreach_lerp_([slow for slow, _ in pairs], [fast for _, fast in pairs], 1 - keep)


def _pairs(average: nn.Module, model: nn.Module) -> Iterator[tuple[Parameter, Parameter]]:
    return zip(average.parameters(), model.parameters(), strict=True)
