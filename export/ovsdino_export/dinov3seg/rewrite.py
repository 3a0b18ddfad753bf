"""Replace parts of dinov3.seg that engines cannot read by equal ones, for one view size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from ovsdino.dinov3seg.clip_vision import ClipVision
from ovsdino.dinov3seg.dinotxt_vision import DinoTxtVision
from ovsdino.dinov3seg.early_refinement import (
    FeatureUnification,
    ImageRope,
    WindowWeights,
    tokens,
    window_reach,
)
from ovsdino.dinov3seg.guided_linear import GuidedLinear
from ovsdino.dinov3seg.spatial_refinement import WindowAttention
from ovsdino_export.rewrite.rewrite import adopt, restate
from ovsdino_export.rewrite.vit import fix_positions

Vision = DinoTxtVision | ClipVision
Model = TypeVar("Model", bound=nn.Module)


def restate_vision(vision: Vision, side: int) -> Vision:
    """Copy a vision tower with its attentions written out, for squares of ``side`` px."""
    vision = restate(vision)
    vit = vision.backbone if isinstance(vision, DinoTxtVision) else vision.vit
    grid = side // vision.patch_size
    fix_positions(cast(VisionTransformer | Eva, vit), (grid, grid))
    return vision


def restate_refinements(model: Model, *, image: int, grid: int) -> Model:
    """Copy any part of the network after its towers, for one view size.

    Args:
        model: the early or late refinements; not changed.
        image: side of the image that early refinement encodes [px].
        grid: patches a side.
    """
    model = restate(model)
    fixes: dict[type[nn.Module], Callable[[nn.Module], nn.Module]] = {
        ImageRope: lambda part: FixedImageRope(cast(ImageRope, part), image),
        FeatureUnification: lambda part: FixedUnification(cast(FeatureUnification, part), grid),
        WindowWeights: lambda part: FixedWindowWeights(cast(WindowWeights, part), grid),
        WindowAttention: lambda part: FixedWindowAttention(cast(WindowAttention, part), grid),
        GuidedLinear: lambda part: TwoLinears(cast(GuidedLinear, part)),
        nn.GroupNorm: lambda part: RowwiseGroupNorm(cast(nn.GroupNorm, part)),
    }
    for module in list(model.modules()):
        for name, child in module.named_children():
            if type(child) in fixes:
                module.register_module(name, fixes[type(child)](child))
    for module in model.modules():  # inside the fixed attentions
        for name, child in module.named_children():
            if type(child) is GuidedLinear:
                module.register_module(name, TwoLinears(child))
    return model


class FixedImageRope(ImageRope):
    """The rotation of a square of one size, from tables of its rows and columns.

    A table of all angles would be as large as the image code. The original computes coordinates with Range,
    which TensorRT 10.3 does not read.

    Shape: x (B, C, S, S), kept.
    """

    tables: Tensor

    def __init__(self, rope: ImageRope, side: int) -> None:
        adopt(self, rope)
        places = torch.linspace(0, 1, side)
        angles = self.freqs.detach()[:, :, None] * places  # (2, C, S): down, across
        self.register_buffer("tables", torch.stack([angles.cos(), angles.sin()]))  # (2, 2, C, S)

    def forward(self, x: Tensor) -> Tensor:
        """Rotate."""
        (cos_down, cos_across), (sin_down, sin_across) = self.tables.unbind()
        cos_down, sin_down = cos_down[:, :, None], sin_down[:, :, None]  # (C, S, 1)
        cos_across, sin_across = cos_across[:, None], sin_across[:, None]  # (C, 1, S)
        cosine = cos_down * cos_across - sin_down * sin_across  # of the sum of both angles, (C, S, S)
        sine = sin_down * cos_across + cos_down * sin_across
        first, second = x.chunk(2, dim=1)
        rotated: Tensor = x * cosine + torch.cat([-second, first], dim=1) * sine
        return rotated


class FixedUnification(FeatureUnification):
    """Feature unification on one grid, with precomputed counts of kernel positions inside the map.

    Shape: features (B, D, g, g) -> (B, M, g, g).
    """

    inside: Tensor

    def __init__(self, unification: FeatureUnification, grid: int) -> None:
        adopt(self, unification)
        self.register_buffer("inside", unification.count_inside(torch.ones(1, 1, grid, grid)))  # (1, 1, g, g)

    def count_inside(self, features: Tensor) -> Tensor:  # noqa: ARG002 - as its parent
        """Return the counts. Shape: (1, 1, g, g)."""
        return self.inside

    def unify(self, answers: Tensor) -> Tensor:
        """Turn responses into shares, with the softmax in FP32: (B, D, M, r, g) -> (B, M, r, g)."""
        return super().unify(answers.float()).to(answers.dtype)


class FixedWindowWeights(WindowWeights):
    """The attention weights on one grid, with a precomputed window.

    Shape: query and key (B, M, g, g) -> (B, g * g, g * g).
    """

    near: Tensor

    def __init__(self, weights: WindowWeights, grid: int) -> None:
        adopt(self, weights)
        reach = window_reach(grid, self.ratio)
        near = (reach[:, None, :, None] & reach[None, :, None, :]).flatten(2).flatten(0, 1)
        self.register_buffer("near", near)  # (L, L)

    def forward(self, query: Tensor, key: Tensor) -> Tensor:
        """Compare queries and keys."""
        q = self._split(self.query(self.norm_q(tokens(self.context(query)))))  # (B, heads, L, d)
        k = self._split(self.key(self.norm_k(tokens(key))))  # (B, heads, L, d)
        scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).float()  # (B, heads, L, L)
        scores = torch.where(self.near, scores, -torch.inf)
        return scores.softmax(-1).mean(1).to(query.dtype)


class FixedWindowAttention(WindowAttention):
    """Window attention on one grid, written out, with a precomputed mask.

    Shape: x (B, N, g, g, C), guidance (B, 1, g, g, G) -> (B, N, g, g, C).
    """

    mask: Tensor

    def __init__(self, attention: WindowAttention, grid: int) -> None:
        adopt(self, attention)
        self.register_buffer("mask", attention.attention_mask(grid, grid))  # (n, 1, a, a)

    def attention_mask(self, height: int, width: int) -> Tensor:  # noqa: ARG002 - as its parent
        """Return the mask. Shape: (n, 1, a, a) bool."""
        return self.mask

    def attend(self, q: Tensor, k: Tensor, *, v: Tensor, mask: Tensor) -> Tensor:
        """Attend within windows: q, k, v (B, N, n, heads, a, d), mask (n, 1, a, a) -> as q."""
        scores = ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).float()  # (B, N, n, heads, a, a)
        return torch.where(mask, scores, -torch.inf).softmax(-1).to(v.dtype) @ v


class RowwiseGroupNorm(nn.GroupNorm):
    """Group normalisation that sums over rows first.

    ONNX Runtime's InstanceNormalization sums all values of a group sequentially in FP32. In early refinement
    of a 640 px view these are 6.6 million values, and three of seven digits were lost.

    Shape: (B, C, H, W), kept.
    """

    def __init__(self, norm: nn.GroupNorm) -> None:
        adopt(self, norm)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise."""
        groups = torch.unflatten(x, 1, (self.num_groups, -1))  # (B, G, C / G, H, W)
        groups = groups - groups.mean(-1, keepdim=True).mean((2, 3), keepdim=True)
        row = torch.linalg.vector_norm(groups, dim=-1, keepdim=True)  # (B, G, C / G, H, 1)
        variance = (row * row).mean((2, 3), keepdim=True) / x.shape[-1]  # (B, G, 1, 1, 1)
        normed: Tensor = (groups / (variance + self.eps).sqrt()).flatten(1, 2)
        return normed * self.weight[:, None, None] + self.bias[:, None, None]


class TwoLinears(nn.Module):
    """`GuidedLinear` as two separate linear layers.

    Shape: x (..., width), guidance (..., guidance width) or None -> (..., width).
    """

    def __init__(self, linear: GuidedLinear) -> None:
        super().__init__()
        width = linear.out_features
        guidance = linear.in_features - width
        self.own = nn.Linear(width, width)
        self.own.weight = nn.Parameter(linear.weight[:, :width].detach().clone(), requires_grad=False)
        self.own.bias = linear.bias
        self.guide = nn.Linear(guidance, width, bias=False) if guidance else None
        if self.guide is not None:
            self.guide.weight = nn.Parameter(linear.weight[:, width:].detach().clone(), requires_grad=False)

    def forward(self, x: Tensor, guidance: Tensor | None) -> Tensor:
        """Project input and guidance, and add them."""
        mapped = cast(Tensor, self.own(x))
        return mapped if self.guide is None or guidance is None else mapped + self.guide(guidance)
