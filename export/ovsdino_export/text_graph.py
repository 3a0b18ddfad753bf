"""Export the text graph, and compare it with torch on the class names of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from ovsdino.network.checkpoint import TEXT as CHECKPOINT
from ovsdino.network.checkpoint import survives_half
from ovsdino.network.text_tower import TextTower, save_text_tower
from ovsdino_export import parity
from ovsdino_export.graphs.graph import PROJECTION, TEXT, describe_graph, export_graph
from ovsdino_export.graphs.storage import Checkpoint, save_alone, save_sharing_weights, store_as_half
from ovsdino_export.pipeline import ProjectionPipeline, TextPipeline
from ovsdino_export.text import TextHalf
from ovsdino_runtime.bundle import bundle
from ovsdino_runtime.text.vocabulary import load_vocabulary

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]
BANK = "ade150"  # the words among which parity labels each position


def export_text(text: TextHalf, staging: Path, report: Report) -> dict[bundle.GraphName, bundle.Graph]:
    """Write text.onnx and, if the model has a projection, projection.onnx. Weights are FP16 if lossless."""
    report("exporting text.onnx")
    example = torch.from_numpy(encode(text, ["a photo of a cat", "tree"]))
    graph = export_graph(TextPipeline(text.tower), example, TEXT)
    store_as_half(graph)
    described = describe_graph(graph, "text.onnx", precision="fp32")
    if isinstance(text.tower, TextTower) and survives_half(text.tower):
        save_text_tower(text.tower, staging / CHECKPOINT)
        held = Checkpoint(staging / CHECKPOINT)
        save_sharing_weights({"text.onnx": graph}, staging, "text.data", checkpoint=held)
    else:
        save_alone(graph, staging / "text.onnx")
    return {"text": described, **export_projection(text, staging, example=example, report=report)}


def export_projection(
    text: TextHalf, staging: Path, *, example: torch.Tensor, report: Report
) -> dict[bundle.GraphName, bundle.Graph]:
    """Write projection.onnx, which maps averaged prompt features to class embeddings."""
    if text.projection is None:
        return {}
    report("exporting projection.onnx")
    with torch.inference_mode():
        means = text.tower(example)  # (2, C)
    graph = export_graph(ProjectionPipeline(text.projection), means.clone(), PROJECTION)
    save_alone(graph, staging / "projection.onnx")
    return {"projection": describe_graph(graph, "projection.onnx", precision="fp32")}


def text_parity(
    text: TextHalf, staging: Path, template: str = "{}"
) -> tuple[Floats, dict[bundle.GraphName, bundle.Parity]]:
    """Encode the words of the bank in torch and in the graph.

    Returns:
        The embeddings of torch, (N, D), and the figures of the comparison.
    """
    ids = encode(text, [template.format(words[0]) for words in load_vocabulary(BANK).classes])
    with torch.inference_mode():
        given: Floats = text.embed(torch.from_numpy(ids)).numpy()
    exported = parity.onnx_encoder(staging / "text.onnx", TEXT)(ids)
    if text.projection is not None:
        exported = parity.onnx_encoder(staging / "projection.onnx", PROJECTION)(exported)
    bank, actual = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (given, exported))
    return given, {"text": parity.compare(bank, actual, bank=bank, thresholds=parity.THRESHOLDS["text"])}


def encode(text: TextHalf, phrases: Iterable[str]) -> npt.NDArray[np.int64]:
    """Tokenize phrases, padded to the longest: (B, T)."""
    return np.array([encoding.ids for encoding in text.tokenizer.encode_batch(list(phrases))], dtype=np.int64)
