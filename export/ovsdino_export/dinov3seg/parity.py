"""Parity of dinov3.seg: run the network and the chain of graphs, and compare their logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.correlation import best_classes, correlate, put_classes, text_halves
from ovsdino.dinov3seg.local_global import view_logits
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino_export.dinov3seg.pipelines import StageSpec
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.bundle.bundle import Graph, Parity, ParityThresholds
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine

Floats = npt.NDArray[np.float32]
Run = Callable[
    [str, Mapping[str, Tensor]], dict[str, Tensor]
]  # a graph by its name, inputs and outputs by name

DECODED_AT_ONCE = 32  # classes
LARGE = 256 << 20  # [bytes] a graph with more weights is closed after each run


class GraphDinov3seg:
    """Replace the network in `view_logits`: each part is computed by its graph.

    Args:
        config: configuration of the network.
        stages: names of the existing graphs.
        run: runs a graph.
    """

    def __init__(self, config: Dinov3segConfig, stages: Sequence[str], run: Run) -> None:
        self.config, self.stages, self.run = config, stages, run
        self.vlm = SimpleNamespace(vision=self.encode)

    def encode(self, pixels: Tensor) -> Tensor:
        """Encode windows or the whole view: (B, 3, S, S) -> (B, D, h, w)."""
        name = (
            "whole" if pixels.shape[-1] == self.config.inference.view and "whole" in self.stages else "vision"
        )
        return self.run(name, {"pixels": pixels})["features"]

    def refine_patches(self, pixels: Tensor, patches: Tensor) -> Tensor:
        """Apply early refinement if the network has it: -> (B, D, h, w)."""
        if "refine" not in self.stages:
            return patches
        return self.run("refine", {"pixels": pixels, "features": patches})["refined"]

    def see_prior(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return SAM's guidance if the network has it."""
        return self.run("guidance", {"pixels": pixels}) if "guidance" in self.stages else {}

    def decode(self, patches: Tensor, prior: Mapping[str, Tensor], text: Tensor) -> Tensor:
        """Refine and decode the best classes, in portions: text (N, W) -> (1, N, 4g, 4g)."""
        costs = correlate(patches, text_halves(text, self.config))
        present = torch.ones(len(text), dtype=torch.bool)
        chosen = best_classes(costs, present, self.config.pad_length)  # (1, K)
        late = self.run("late", {"features": patches, "text": text[chosen[0]], **prior})["costs"]
        logits = [
            self.run("decoder", {"costs": portion, **prior})["logits"]
            for portion in torch.split(late, DECODED_AT_ONCE)
        ]
        return put_classes(
            torch.cat(logits)[None], chosen, classes=len(text), absent=self.config.absent_logit
        )


def chain_logits(model: Dinov3Seg | GraphDinov3seg, views: Floats, text: Floats) -> Floats:
    """Segment photos one by one: views (n, 3, V, V), text (N, W) -> (n, N, 4g, 4g)."""
    with torch.inference_mode():
        logits = [
            view_logits(cast(Dinov3Seg, model), torch.from_numpy(view)[None], torch.from_numpy(text))[
                0
            ].numpy()
            for view in views
        ]
    return np.stack(logits)


def torch_run(stages: Mapping[str, StageSpec], precision: Precision, fp32: Sequence[str] = ()) -> Run:
    """Run the pipelines in torch, which rounds to FP16, unlike ONNX Runtime on a CPU."""
    built: dict[str, nn.Module] = {}

    def run(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        if name not in built:
            built[name] = stages[name].build(precision=precision, fp32=fp32).eval()
        spec = stages[name].spec
        given = built[name](*(tensors[key] for key in spec.inputs))
        return dict(zip(spec.outputs, given if isinstance(given, tuple) else (given,), strict=True))

    return run


def onnx_run(folder: Path, graphs: Mapping[str, Graph]) -> Run:
    """Run the files as the runtime does, on the CPU; large files are opened for each run."""
    opened: dict[str, OnnxRuntimeEngine] = {}

    def run(name: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        graph = graphs[name]
        engine = opened.get(name) or OnnxRuntimeEngine(folder / graph.file)
        weights = folder / f"{'vision' if name == 'whole' else name}.data"
        if not weights.is_file() or weights.stat().st_size < LARGE:
            opened[name] = engine
        outputs = engine.run({value.name: tensors[value.name].numpy() for value in graph.inputs})
        return {key: torch.from_numpy(value) for key, value in outputs.items()}

    return run


def compare_logits(expected: Floats, actual: Floats, thresholds: ParityThresholds) -> Parity:
    """Compare logits: cosine over classes at each position after subtracting their mean, and best class.

    Shape: both (n, N, h, w).
    """
    finite = bool(np.isfinite(actual).all())
    first, second = (values - values.mean(1, keepdims=True) for values in (expected, actual))
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    cosine = (first * second).sum(1) / np.maximum(lengths, 1e-12)  # (n, h, w)
    return Parity(
        cosine_mean=float(cosine.mean()) if finite else 0.0,
        cosine_p01=float(np.percentile(cosine, 1)) if finite else 0.0,
        label_agreement=float((expected.argmax(1) == actual.argmax(1)).mean()) if finite else 0.0,
        finite=finite,
        photos=len(expected),
        thresholds=thresholds,
    )
