"""Fine-tune the VLM: train only the query and value projections."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ovsdino.network.text_tower import SelfAttention


@dataclass(frozen=True)
class FusedWeight:
    """A matrix of queries, keys and values whose keys' third stays frozen."""

    weight: nn.Parameter  # (3 C, C)
    keys: Tensor  # (C, C), a copy


class QueryValueTuning:
    """Freeze a VLM except for the query and value weights of every attention in both towers.

    If the three projections are one matrix, the rows of the keys get no gradient, so that they do not count
    in gradient clipping. They are also restored after each optimizer step, because weight decay and momentum
    would change them; they stay bitwise equal.

    Source: dinov3.seg is silent; CAT-Seg, ``cat_seg_model.py``, trains these of CLIP.

    Args:
        vlm: the network; its ``requires_grad`` flags are set.
    """

    def __init__(self, vlm: nn.Module) -> None:
        vlm.requires_grad_(False)
        self.separate = [weight for module in vlm.modules() for weight in separate_weights(module)]
        fused = [weight for module in vlm.modules() for weight in fused_weights(module)]
        self.fused = [FusedWeight(weight, key_rows(weight).detach().clone()) for weight in fused]
        for weight in self.parameters():
            weight.requires_grad_(True)
        for weight in fused:
            weight.register_hook(without_keys)  # type: ignore[no-untyped-call]

    def parameters(self) -> list[nn.Parameter]:
        """Return the trained parameters, for a parameter group of the optimizer."""
        return [*self.separate, *(matrix.weight for matrix in self.fused)]

    def watch(self, optimizer: Optimizer) -> None:
        """Restore the keys' rows after each step of an optimizer."""
        optimizer.register_step_post_hook(self._restore)

    @torch.no_grad()
    def _restore(self, *_: Any) -> None:  # noqa: ANN401 - torch's signature
        for matrix in self.fused:
            key_rows(matrix.weight).copy_(matrix.keys)


def fused_weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """Find the fused matrix of queries, keys and values of timm's and torch's attention modules."""
    if isinstance(module, nn.MultiheadAttention):
        yield module.in_proj_weight
    elif isinstance(qkv := getattr(module, "qkv", None), nn.Linear):
        yield cast(nn.Parameter, qkv.weight)


def separate_weights(module: nn.Module) -> Iterator[nn.Parameter]:
    """Find the separate query and value matrices of an attention, as in nano's text tower."""
    if isinstance(module, SelfAttention):
        yield cast(nn.Parameter, module.query.weight)
        yield cast(nn.Parameter, module.value.weight)


def key_rows(weight: Tensor) -> Tensor:
    """Return the rows of the keys, the middle third, as a view: (3 C, C) -> (C, C)."""
    return weight.chunk(3)[1]


def without_keys(gradient: Tensor) -> Tensor:
    """Return a gradient with the rows of the keys set to 0. Shape: (3 C, C), kept."""
    query, key, value = gradient.chunk(3)
    return torch.cat([query, torch.zeros_like(key), value])
