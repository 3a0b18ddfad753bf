"""The exported graphs of dinov3.seg: each class is one ONNX file. Inputs and outputs are FP32."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.correlation import correlate, text_halves
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino_export.dinov3seg.rewrite import restate_refinements, restate_vision
from ovsdino_export.graphs.graph import VISION, GraphSpec
from ovsdino_export.rewrite.half_precision import TYPES, to_half
from ovsdino_export.rewrite.rewrite import adopt
from ovsdino_export.rewrite.sam import FixedPrior
from ovsdino_runtime.base.options import Precision

Model = TypeVar("Model", bound=nn.Module)

CORRELATION = "correlation"  # stays in FP32: cosines rank the classes


class BuildStage(Protocol):
    """Builds a graph's module in a precision; ``fp32`` names layers that stay in FP32."""

    def __call__(self, *, precision: Precision, fp32: Collection[str]) -> nn.Module: ...


@dataclass(frozen=True)
class StageSpec:
    """A graph: function that builds its module, tensor names, and an example input."""

    build: BuildStage
    spec: GraphSpec
    example: tuple[Tensor, ...]
    fp32: tuple[str, ...] = ()  # layers that stay in FP32 in every precision


def make_stages(model: Dinov3Seg) -> dict[str, StageSpec]:
    """Return the graphs of a network except text, in the order in which they run."""
    config, how = model.config, model.config.inference
    grid, half = how.view // config.vlm.patch_size, config.decoder_guidance_widths
    pixels, window = torch.zeros(1, 3, how.view, how.view), torch.zeros(2, 3, how.window, how.window)
    features = torch.zeros(1, config.vlm.width, grid, grid)
    image = torch.zeros(1, config.guidance_width, grid, grid)
    fine = (torch.zeros(1, half[0], 2 * grid, 2 * grid), torch.zeros(1, half[1], 4 * grid, 4 * grid))
    text, costs = torch.zeros(3, config.vlm.text_width), torch.zeros(3, config.width, grid, grid)
    prior, late = config.prior is not None, config.prior is not None and config.late
    images: dict[str, dict[int, str]] = {"image": {}} if late else {}
    fines: dict[str, dict[int, str]] = {"fine1": {}, "fine2": {}} if prior else {}
    stages = {
        "vision": StageSpec(partial(VisionStage, model, how.window), VISION, (window,)),
        "whole": StageSpec(
            partial(VisionStage, model, how.view), spec({"pixels": {}}, "features"), (pixels,)
        ),
        "guidance": StageSpec(
            partial(GuidanceStage, model), spec({"pixels": {}}, *images, *fines), (pixels,)
        ),
        "refine": StageSpec(
            partial(RefineStage, model),
            spec({"pixels": {}, "features": {}}, "refined"),
            (pixels, features),
        ),
        "late": StageSpec(
            build=partial(LateStage, model),
            spec=spec({"features": {}, "text": {0: "classes"}, **images}, "costs"),
            example=(features, text, *([image] if late else [])),
            fp32=(CORRELATION,),
        ),
        "decoder": StageSpec(
            partial(DecoderStage, model),
            spec({"costs": {0: "classes"}, **fines}, "logits"),
            (costs, *(fine if prior else ())),
        ),
    }
    absent = {"whole": how.whole == "window", "guidance": not prior, "refine": not config.early}
    return {name: stage for name, stage in stages.items() if not absent.get(name)}


def spec(inputs: dict[str, dict[int, str]], *outputs: str) -> GraphSpec:
    """Return the spec of a graph: inputs with their dynamic axes, and outputs."""
    return GraphSpec(inputs, outputs)


def part_of(model: Dinov3Seg, *names: str) -> Dinov3Seg:
    """Return a network with only some parts of ``model``, which it shares."""
    part = Dinov3Seg.__new__(Dinov3Seg)
    adopt(part, model)
    for name in {name for name, _ in part.named_children()} - set(names):
        setattr(part, name, None)
    return part


def restate_part(part: Dinov3Seg) -> Dinov3Seg:
    """Copy refinements, restated for the size of the inference view."""
    config = part.config
    view = config.inference.view
    return restate_refinements(part, image=view // config.early_shrink, grid=view // config.vlm.patch_size)


def typed(module: Model, precision: Precision, fp32: Collection[str]) -> Model:
    """Return a restated module in a precision."""
    return module if precision == "fp32" else to_half(module, TYPES[precision], fp32=fp32)


class VisionStage(nn.Module):
    """vision.onnx and whole.onnx: the VLM's patches of squares of one size.

    Shape: pixels (B, 3, S, S), normalised with the VLM's mean and std -> features (B, D, S / p, S / p).
    """

    def __init__(
        self, model: Dinov3Seg, side: int, *, precision: Precision = "fp32", fp32: Collection[str] = ()
    ) -> None:
        super().__init__()
        self.dtype = TYPES[precision]
        self.vision = typed(restate_vision(model.vlm.vision, side), precision, fp32)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode."""
        return self.vision(pixels.to(self.dtype)).float()  # type: ignore[no-any-return]


class GuidanceStage(nn.Module):
    """guidance.onnx: all of SAM's guidance that does not depend on the classes.

    Shape: pixels (1, 3, V, V) as the VLM's -> image (1, G, g, g) unless there is no late refinement, fine1
        (1, a, 2g, 2g), fine2 (1, b, 4g, 4g).
    """

    def __init__(self, model: Dinov3Seg, precision: Precision = "fp32", fp32: Collection[str] = ()) -> None:
        super().__init__()
        if model.prior is None:
            raise ValueError(f"{model.config.name} has no guidance")
        self.dtype = TYPES[precision]
        part = part_of(model, "image_guidance", "decoder")
        part.prior = FixedPrior(model.prior)
        self.network = typed(part.eval().requires_grad_(False), precision, fp32)

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Return SAM's guidance."""
        network = self.network
        grid = pixels.shape[-1] // network.config.vlm.patch_size
        prior = network.see_prior(pixels.to(self.dtype))
        image = network.guide_by_image(prior, [grid, grid])
        fine = network.decoder.guide(prior, [grid, grid])
        return tuple(part.float() for part in (image, *fine) if part is not None)


class RefineStage(nn.Module):
    """refine.onnx: early refinement.

    Shape: pixels (1, 3, V, V) as the VLM's, features (1, D, g, g) -> refined (1, D, g, g).
    """

    def __init__(self, model: Dinov3Seg, precision: Precision = "fp32", fp32: Collection[str] = ()) -> None:
        super().__init__()
        self.dtype = TYPES[precision]
        self.network = typed(restate_part(part_of(model, "early")), precision, fp32)

    def forward(self, pixels: Tensor, features: Tensor) -> Tensor:
        """Refine."""
        return self.network.refine_patches(pixels.to(self.dtype), features.to(self.dtype)).float()


class LateStage(nn.Module):
    """late.onnx: correlation, its embedding, late refinement.

    Shape: features (1, D, g, g), text (N, text width), image (1, G, g, g) or None -> costs (N, C, g, g).
    """

    def __init__(self, model: Dinov3Seg, precision: Precision = "fp32", fp32: Collection[str] = ()) -> None:
        super().__init__()
        self.dtype = TYPES[precision]
        part = part_of(model, "cost_embedding", "text_guidance", "late")
        self.network = typed(restate_part(part), precision, fp32)
        self.correlation = Correlation(model.config)

    def forward(self, features: Tensor, text: Tensor, image: Tensor | None = None) -> Tensor:
        """Correlate patches and text."""
        costs, halves = self.correlation(features, text)  # (1, N, P, g, g), (N, P, D)
        known = torch.ones_like(text[:, 0], dtype=torch.bool)[None]  # (1, N)
        image = None if image is None else image.to(self.dtype)
        halves = halves.to(self.dtype)[None]
        return self.network.refine_costs(costs.to(self.dtype), image, halves=halves, known=known)[0].float()


class Correlation(nn.Module):
    """Cosines. Shape: features (1, D, g, g), text (N, text width) -> (1, N, P, g, g), (N, P, D)."""

    def __init__(self, config: Dinov3segConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Correlate."""
        halves = text_halves(text, self.config)
        return correlate(features, halves), halves


class DecoderStage(nn.Module):
    """decoder.onnx: each class's map to its logits.

    Shape: costs (N, C, g, g), fine1 (1, a, 2g, 2g), fine2 (1, b, 4g, 4g) or None -> logits (N, 4g, 4g).
    """

    def __init__(self, model: Dinov3Seg, precision: Precision = "fp32", fp32: Collection[str] = ()) -> None:
        super().__init__()
        self.dtype = TYPES[precision]
        decoder = part_of(model, "decoder").decoder
        self.decoder = typed(decoder.eval().requires_grad_(False), precision, fp32)

    def forward(self, costs: Tensor, fine1: Tensor | None = None, fine2: Tensor | None = None) -> Tensor:
        """Decode."""
        fine = [None if part is None else part.to(self.dtype) for part in (fine1, fine2)]
        return self.decoder.upsample(costs.to(self.dtype), *fine).float()
