"""Find the layers that must stay in FP32 so that a graph in FP16 or BF16 passes.

Three plans are tried, the fastest first: no layer, the attention, or a few layers found by bisection on
photos. Attention in FP32 is safe but a third slower (TensorRT-Model-Connect 780).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
from timm.models.vision_transformer import Block
from torch import nn

from ovsdino.network.structure_encoder import DepthwiseBlock
from ovsdino_export import parity
from ovsdino_export.networks import Network
from ovsdino_export.pipeline import VisionPipeline
from ovsdino_export.rewrite.half_precision import ATTENTION
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.bundle.bundle import GraphName, Parity

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]
WHOLE = (Block, DepthwiseBlock, nn.Linear, nn.Conv2d)  # units that are kept in FP32 as a whole


def find_fp32_layers(
    model: Network,
    precision: Precision,
    pixels: Floats,
    *,
    expected: Floats,
    bank: Floats,
    report: Report = lambda _: None,
) -> tuple[str, ...]:
    """Find the layers that must stay in FP32, measured in torch, which rounds after each operation.

    Args:
        model: the trained network.
        precision: "fp16" or "bf16".
        pixels: windows of the photos, (n, 3, S, S).
        expected: the model's own features of them, (n, D, h, w).
        bank: embeddings of the words among which positions are labelled, (N, D).
        report: called with a message if the first plan fails.

    Returns:
        No name, `ATTENTION`, or the names of layers; all layers if nothing less is enough.
    """
    name: GraphName = "vision.bf16" if precision == "bf16" else "vision.fp16"

    def passes(kept: Sequence[str]) -> bool:
        try:
            encode = parity.torch_encoder(VisionPipeline(model, precision, fp32=kept))
        except OvsdinoError:  # a weight is beyond FP16's range: its layer is one to keep
            return False
        figure: Parity = parity.compare(
            expected, parity.in_batches(encode, pixels), bank=bank, thresholds=parity.THRESHOLDS[name]
        )
        return not list(parity.misses(figure))

    if passes(()):
        return ()
    report(f"{precision} misses its thresholds; trying the attention in FP32")
    if passes((ATTENTION,)):
        report(f"{precision} needs the attention in FP32")
        return (ATTENTION,)
    report("that is not enough; looking for the layers that need FP32")
    kept = tuple(smallest(units(model), passes))
    report(f"{precision} needs FP32 in {', '.join(kept)}")
    return kept


def units(model: nn.Module) -> list[str]:
    """List the layers that can stay in FP32, in the model's order: blocks, and modules outside of blocks."""
    names: list[str] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{unit}.") for unit in names)
        if isinstance(module, WHOLE) and not inside:
            names.append(name)
    return names


def smallest(names: Sequence[str], passes: Callable[[Sequence[str]], bool]) -> list[str]:
    """Find a smallest set of names that passes, by bisection; no name of it can be left out.

    Source: Junker, "QuickXplain" (AAAI 2004). It takes about ``k * log2(n / k)`` tries for k of n names.

    Args:
        names: all names; returned unchanged if they do not pass together.
        passes: tells whether a set passes; a larger set never does worse.
    """

    def search(part: list[str], fixed: list[str], *, grown: bool) -> list[str]:
        if grown and passes(fixed):
            return []
        if len(part) == 1:
            return part
        left, right = part[: len(part) // 2], part[len(part) // 2 :]
        late = search(right, fixed + left, grown=True)
        early = search(left, fixed + late, grown=bool(late))
        return early + late

    everything = list(names)
    return search(everything, [], grown=False) if passes(everything) else everything
