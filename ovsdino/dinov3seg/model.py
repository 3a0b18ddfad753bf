"""The dinov3.seg network, composed of its parts."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.correlation import best_classes, correlate, put_classes, take_classes, text_halves
from ovsdino.dinov3seg.decoder import UpsamplingDecoder, fit
from ovsdino.dinov3seg.early_refinement import EarlyRefinement
from ovsdino.dinov3seg.late_refinement import LateRefinement
from ovsdino.dinov3seg.semantic_prior import Prior, SemanticPrior
from ovsdino.dinov3seg.vlm import Vlm
from ovsdino.network.config import IMAGENET_MEAN, IMAGENET_STD


class Dinov3Seg(nn.Module):
    """Refine patches, correlate them with both text halves, refine the costs, decode.

    Source: dinov3.seg (arXiv 2603.19531), section 3.

    Args:
        config: a preset of :data:`ovsdino.dinov3seg.presets.PRESETS`, or your own configuration.

    Shape: pixels (B, 3, H, W) normalised with the VLM's mean and std, text (N, text width) as ``vlm.text``
        returns it, present (N,) bool -> logits (B, N, 4h, 4w), one sigmoid per class.
    """

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        self.config = config
        self.vlm = Vlm(config.vlm)
        self.early = nn.ModuleList(EarlyRefinement(config) for _ in range(config.early_blocks * config.early))
        self.prior = SemanticPrior(config.prior) if config.prior else None
        half = config.cost_kernel // 2
        self.cost_embedding = nn.Conv2d(len(config.halves), config.width, config.cost_kernel, padding=half)
        text_width = len(config.halves) * config.vlm.width
        self.text_guidance = nn.Linear(text_width, config.guidance_width) if config.late else None
        self.image_guidance = (
            nn.Conv2d(config.prior.channels, config.guidance_width, 3, padding=1)
            if config.late and config.prior
            else None
        )
        self.late = nn.ModuleList(LateRefinement(config) for _ in range(config.late_layers * config.late))
        self.decoder = UpsamplingDecoder(config)

    def forward(self, pixels: Tensor, text: Tensor, present: Tensor | None = None) -> Tensor:
        """Return the logits; classes that are not present, or not among the best 256, get -100."""
        patches = self.refine_patches(pixels, self.vlm.vision(pixels))  # (B, D, h, w)
        return self.decode(patches, self.see_prior(pixels), text=text, present=present)

    def refine_patches(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Apply early refinement: pixels (B, 3, H, W), patches (B, D, h, w) -> (B, D, h, w)."""
        for early in self.early:
            patches = early(self.to_imagenet(pixels), patches)
        return patches

    def see_prior(self, pixels: Tensor) -> Prior | None:
        """Return SAM's features of pixels (B, 3, H, W), or None in the ablation without SAM."""
        return None if self.prior is None else cast(Prior, self.prior(self.to_imagenet(pixels)))

    def decode(
        self, patches: Tensor, prior: Prior | None, *, text: Tensor, present: Tensor | None = None
    ) -> Tensor:
        """Correlate, refine late and decode: patches (B, D, h, w), text (N, text width) -> (B, N, 4h, 4w)."""
        if present is None:
            present = torch.ones(len(text), dtype=torch.bool, device=text.device)
        halves = text_halves(text, self.config)  # (N, P, D)
        costs = correlate(patches, halves)  # (B, N, P, h, w)
        chosen = best_classes(costs, present, self.config.pad_length)  # (B, K)
        costs = take_classes(costs, chosen)  # (B, K, P, h, w)
        known = present[chosen]  # (B, K)
        image = self.guide_by_image(prior, list(patches.shape[-2:]))  # (B, G, h, w) or None
        x = self.refine_costs(costs, image, halves=halves[chosen], known=known)  # (B, K, C, h, w)
        logits = self.decoder(x, prior)  # (B, K, 4h, 4w)
        logits = logits.masked_fill(~known[..., None, None], self.config.absent_logit)
        return put_classes(
            logits, chosen, classes=len(text), absent=self.config.absent_logit
        )  # (B, N, 4h, 4w)

    def refine_costs(self, costs: Tensor, image: Tensor | None, *, halves: Tensor, known: Tensor) -> Tensor:
        """Embed the costs and apply late refinement.

        Shape: costs (B, K, P, h, w), image (B, G, h, w) or None, halves (B, K, P, D), known (B, K) bool ->
            (B, K, C, h, w).
        """
        x = torch.unflatten(self.cost_embedding(costs.flatten(0, 1)), 0, costs.shape[:2])  # (B, K, C, h, w)
        if self.text_guidance is not None:
            guidance = self.text_guidance(halves.flatten(2)).relu()  # (B, K, G)
            for late in self.late:
                x = late(x, image, text=guidance, present=known)
        return x

    def guide_by_image(self, prior: Prior | None, size: list[int]) -> Tensor | None:
        """Resize SAM's last features to the patch grid: -> (B, G, h, w)."""
        if prior is None or self.image_guidance is None:
            return None
        return cast(Tensor, self.image_guidance(fit(prior.last, size)).relu())

    def to_imagenet(self, pixels: Tensor) -> Tensor:
        """Convert from the VLM's normalisation to ImageNet's, which SAM and AnyUp expect."""
        mean, std = self.config.vlm.mean, self.config.vlm.std
        if (mean, std) == (IMAGENET_MEAN, IMAGENET_STD):
            return pixels
        rows = [pixels.new_tensor(row)[:, None, None] for row in (mean, std, IMAGENET_MEAN, IMAGENET_STD)]
        return (pixels * rows[1] + rows[0] - rows[2]) / rows[3]
