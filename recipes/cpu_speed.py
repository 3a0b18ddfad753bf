"""Measure the vision graph's variants on a CPU: time per window in one thread, medians (docs/export.md).

Speed does not depend on the weights' values, so a preset without weights gets random ones.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import click
import numpy as np
import onnx
import torch

from ovsdino.network.checkpoint import load_model
from ovsdino.network.config import PRESETS
from ovsdino.network.model import OVSDINO
from ovsdino_export.graphs.graph import VISION, export_graph
from ovsdino_export.graphs.local_functions import call_functions
from ovsdino_export.photos import gather_photos
from ovsdino_export.pipeline import VisionPipeline
from ovsdino_export.precision.int8_ladder import noisiest
from ovsdino_export.precision.quantize import quantize
from ovsdino_export.rewrite.called_attention import call_attention
from ovsdino_export.rewrite.fold_layerscale import fold_layerscale
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine
from ovsdino_runtime.geometry.preprocess import Preprocessing


def open_graphs(name: str, pixels: np.ndarray, shares: tuple[float, ...]) -> dict[str, onnx.ModelProto]:
    """Export the vision graph: FP32, FP32 without the fused operators, and INT8 with two-pass softmax."""
    torch.manual_seed(0)
    model = load_model(name, None) if name == "nano" else OVSDINO(PRESETS[name]).eval()
    size = model.config.image_size
    example = torch.zeros(2, 3, size, size)

    def export(*changes: Callable[[VisionPipeline], VisionPipeline]) -> onnx.ModelProto:
        pipeline = VisionPipeline(model, "fp32")
        for change in (*changes, call_functions):
            pipeline = change(pipeline)
        return export_graph(pipeline, example, VISION)

    graph = export(fold_layerscale, call_attention)
    order = noisiest(graph, pixels)
    graphs = {
        "FP32": graph,
        "FP32, GELU and LayerScale as in torch": export(call_attention),
        "FP32, attention as operators": export(fold_layerscale),
    }
    for share in shares:
        count = round(share * len(order))
        graphs[f"INT8, {count} of {len(order)} in two passes"] = quantize(graph, twice=order[:count])
    return graphs


def measure(engine: OnnxRuntimeEngine, pixels: np.ndarray) -> float:
    """Return the CPU time of a run [s]."""
    start = time.process_time()
    engine.run({VISION.input: pixels})
    return time.process_time() - start


@click.command()
@click.option("--model", default="nano", show_default=True, type=click.Choice(list(PRESETS)))
@click.option("--turns", default=9, show_default=True)
@click.option("--shares", default="0,0.083,0.25,1", show_default=True, help="Of the products, in two passes.")
def main(model: str, turns: int, shares: str) -> None:
    """Print each graph's CPU time per window and its speed-up over FP32."""
    config = PRESETS[model]
    rules = Preprocessing(config.image_size, mean=config.mean, std=config.std)
    pixels = gather_photos(None, config.image_size).pixels(rules)[:1]
    with scratch_folder("bench") as folder:
        engines: dict[str, OnnxRuntimeEngine] = {}
        for name, graph in open_graphs(model, pixels, tuple(map(float, shares.split(",")))).items():
            file = folder / f"{len(engines)}.onnx"
            onnx.save(graph, file)
            engines[name] = OnnxRuntimeEngine(file, threads=1)
        times: dict[str, list[float]] = {name: [] for name in engines}
        for _ in range(turns + 1):
            for name, engine in engines.items():
                times[name].append(measure(engine, pixels))
    medians = {name: float(np.median(seconds[1:])) for name, seconds in times.items()}  # without the first
    for name, median in medians.items():
        click.echo(f"{name:40} {1000 * median:8.1f} ms   {medians['FP32'] / median:5.2f}")


if __name__ == "__main__":
    main()
