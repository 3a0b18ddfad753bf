"""Parity: compare exported graphs with the torch model on photos, and reject graphs that differ.

This file contains all thresholds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from ovsdino_export.graphs.graph import GraphSpec
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.bundle.bundle import GraphName, Parity, ParityThresholds
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine

Floats = npt.NDArray[np.float32]
Encoder = Callable[[npt.NDArray[Any]], Floats]

THRESHOLDS: dict[GraphName, ParityThresholds] = {
    "vision": ParityThresholds(cosine_mean=0.9999, cosine_p01=0.9999, label_agreement=0.999),
    "vision.fp16": ParityThresholds(cosine_mean=0.999, cosine_p01=0.995, label_agreement=0.99),
    "vision.bf16": ParityThresholds(cosine_mean=0.998, cosine_p01=0.99, label_agreement=0.98),
    "vision.int8": ParityThresholds(cosine_mean=0.0, cosine_p01=0.0, label_agreement=0.98),
    "text": ParityThresholds(cosine_mean=0.9999, cosine_p01=0.9999, label_agreement=0.999),
}
# dinov3.seg's whole chain of graphs: each place's logits less their mean, which most of them share.
CHAIN_THRESHOLDS: dict[Precision, ParityThresholds] = {
    "fp32": ParityThresholds(cosine_mean=0.9999, cosine_p01=0.999, label_agreement=0.999),
    "fp16": ParityThresholds(cosine_mean=0.999, cosine_p01=0.99, label_agreement=0.99),
}
MAX_INT8_DROP = 1.0  # points of mIoU on labelled photos that an INT8 graph may cost
BATCH = 2  # windows at a time


class ParityError(OvsdinoError):
    """An exported graph differs too much from the torch model."""


def compare(expected: Floats, actual: Floats, *, bank: Floats, thresholds: ParityThresholds) -> Parity:
    """Measure how close features are.

    Args:
        expected, actual: unit-length vectors of the torch model and of the graph.
        bank: embeddings of the words among which each position is labelled.
        thresholds: limits, which are stored with the figures.

    Shape: expected, actual (n, D, h, w) or (n, D), bank (N, D).
    """
    if expected.shape != actual.shape:
        raise ParityError(f"the graph gives {actual.shape}, the torch model {expected.shape}")
    finite = bool(np.isfinite(actual).all())
    cosine = (expected * actual).sum(axis=1)  # (n, h, w)
    labels = [np.tensordot(bank, features, axes=(1, 1)).argmax(axis=0) for features in (expected, actual)]
    return Parity(
        cosine_mean=float(cosine.mean()) if finite else 0.0,
        cosine_p01=float(np.percentile(cosine, 1)) if finite else 0.0,
        label_agreement=float((labels[0] == labels[1]).mean()) if finite else 0.0,
        finite=finite,
        photos=len(expected),
        thresholds=thresholds,
    )


def worse(first: Parity, second: Parity) -> Parity:
    """Merge two measurements: the worse value of each figure."""
    return Parity(
        cosine_mean=min(first.cosine_mean, second.cosine_mean),
        cosine_p01=min(first.cosine_p01, second.cosine_p01),
        label_agreement=min(first.label_agreement, second.label_agreement),
        finite=first.finite and second.finite,
        photos=min(first.photos, second.photos),
        thresholds=first.thresholds,
    )


def misses(parity: Parity) -> Iterator[str]:
    """Describe each figure that is below its threshold."""
    for figure in ("cosine_mean", "cosine_p01", "label_agreement"):
        actual, minimum = getattr(parity, figure), getattr(parity.thresholds, figure)
        if actual < minimum:
            yield f"{figure} {actual:.6f}, expected at least {minimum}"
    if not parity.finite:
        yield "some values are infinite or not numbers"


def require(name: str, parity: Parity) -> None:
    """Reject a graph, or a chain of graphs, that misses a threshold.

    Raises:
        ParityError: it misses a threshold. The message holds the figures.
    """
    faults = list(misses(parity))
    if faults:
        kind = name.partition(".")[2]
        cure = f"; export without --{kind}" if kind else ""
        what = "the chain of graphs" if name.startswith("chain") else f"{name}.onnx"
        raise ParityError(f"{what} differs from the torch model: {'; '.join(faults)}{cure}")


def in_batches(encode: Encoder, inputs: Floats) -> Floats:
    """Encode in small batches, so that memory stays bounded: (n, ...) -> (n, ...)."""
    return np.concatenate([encode(inputs[i : i + BATCH]) for i in range(0, len(inputs), BATCH)])


def torch_encoder(pipeline: nn.Module) -> Encoder:
    """Wrap a pipeline as a function on arrays."""

    def encode(inputs: npt.NDArray[Any]) -> Floats:
        with torch.inference_mode():
            features: Floats = pipeline(torch.from_numpy(inputs)).numpy()
        return features

    return encode


def onnx_encoder(path: Path, spec: GraphSpec) -> Encoder:
    """Open a graph as the runtime does, on the CPU, as a function on arrays.

    This cannot prove that FP16 suffices: on a CPU, ONNX Runtime computes FP16 graphs in FP32 and drops casts
    between nodes, so values that overflow on a GPU stay finite here. For FP16 use `torch_encoder`, which
    rounds after each operation.

    Raises:
        EngineError: ONNX Runtime is not installed, or cannot load the graph.
    """
    engine = OnnxRuntimeEngine(path)
    return lambda inputs: engine.run({spec.input: inputs})[spec.output]
