"""Export a model to a bundle: the steps, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch

from ovsdino import __version__
from ovsdino.dinov3seg.presets import PRESETS as DINOV3SEG_PRESETS
from ovsdino.network.checkpoint import save_model, survives_half
from ovsdino.network.head import unit
from ovsdino.network.model import OVSDINO
from ovsdino_export import parity
from ovsdino_export.dinov3seg.export import export_dinov3seg
from ovsdino_export.engines.kernels import compile_kernels, default_gpus, plan_kernels
from ovsdino_export.graphs.graph import VISION, describe_graph, export_graph
from ovsdino_export.graphs.storage import Checkpoint, save_sharing_weights, store_as_half
from ovsdino_export.graphs.versions import program_versions
from ovsdino_export.networks import Network, licences, load_network, preprocessing, refinement, windows
from ovsdino_export.photos import TestPhotos, gather_photos
from ovsdino_export.pipeline import VisionPipeline, shipped_vision
from ovsdino_export.precision import int8_gate, int8_ladder
from ovsdino_export.precision.find_fp32_layers import find_fp32_layers
from ovsdino_export.request import ExportRequest, check_target, wanted_halves
from ovsdino_export.text import TextHalf
from ovsdino_export.text_graph import export_text, text_parity
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.bundle import bundle

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]

VISION_GRAPHS: dict[bundle.Precision, bundle.GraphName] = {
    "fp32": "vision",
    "fp16": "vision.fp16",
    "bf16": "vision.bf16",
}
DATA_FILE = "vision.data"  # weights that vision.onnx and vision.fp16.onnx share
CHECKPOINT = "vision.safetensors"  # the same as a checkpoint, which torch reads as well
PROGRAMS = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "tokenizers")


def export_bundle(request: ExportRequest, report: Report = lambda _: None) -> bundle.Bundle:
    """Export a model, compare every graph with it, and write the bundle.

    Args:
        request: which model, which graphs and where to write.
        report: called with a short description of each step.

    Returns:
        The bundle, read back from disk.

    Raises:
        OvsdinoError: weights are missing or do not match, or a graph misses a threshold. Nothing is written.
    """
    if request.model in DINOV3SEG_PRESETS:
        return export_dinov3seg(request, report)
    target = check_target(request)
    labelled = (
        int8_gate.find_sets(request.int8_data, options=request.photo_options) if request.int8_data else ()
    )
    report("loading weights")
    model, text = load_network(request.model, request.checkpoint, request.text_checkpoint)
    photos = gather_photos(request.photos, model.config.image_size, options=request.photo_options)
    rules = preprocessing(model.config)
    with scratch_folder("export") as staging:
        graphs = export_text(text, staging, report)
        bank, figures = text_parity(text, staging)
        pixels = photos.pixels(rules)
        expected = features_of(model, pixels)
        plans: dict[bundle.Precision, tuple[str, ...]] = {"fp32": ()}
        for precision in wanted_halves(request):
            report(f"trying {precision} on {photos.source}")
            plans[precision] = find_fp32_layers(
                model, precision, pixels, expected=expected, bank=bank, report=report
            )
        fit = partial(int8_ladder.fit, pixels=pixels, expected=expected, bank=bank, report=report)
        quantize = fit if request.int8 else None
        graphs |= export_vision(
            model, staging, plans=plans, report=report, inline=request.inline, quantize=quantize
        )
        report(f"comparing with torch on {photos.source}")
        figures |= vision_parity(model, graphs, staging=staging, pixels=pixels, expected=expected, bank=bank)
        for name, figure in figures.items():
            parity.require(name, figure)
        write_golden(staging, photos, expected)
        text.tokenizer.save(str(staging / bundle.TOKENIZER), pretty=False)
        manifest = make_manifest(model, text, graphs=graphs, figures=figures, source=photos.source)
        manifest = replace(manifest, name=request.name or manifest.name)
        gpus = default_gpus(report) if request.kernels is None else request.kernels
        if gpus:
            fused = plan_kernels(model.config, [graph.precision for graph in graphs.values()])
            manifest = replace(manifest, kernels=compile_kernels(fused, gpus, staging=staging, report=report))
        if labelled:
            int8_gate.gate(manifest, staging, sets=labelled, report=report)
        report(f"writing {target}")
        return bundle.write_bundle(target, manifest, staging, overwrite=request.overwrite)


def export_vision(
    model: Network,
    staging: Path,
    *,
    plans: Mapping[bundle.Precision, tuple[str, ...]],
    report: Report,
    inline: bool = False,
    quantize: Callable[[onnx.ModelProto], onnx.ModelProto] | None = None,
) -> dict[bundle.GraphName, bundle.Graph]:
    """Write a vision graph for each precision. All of them read the same file of weights.

    Args:
        model: the trained network.
        staging: folder in which the bundle is prepared.
        plans: names of layers that stay in FP32, by precision.
        report: called with each step.
        inline: whether to write the fused operators as standard operators.
        quantize: converts the FP32 graph to INT8; None writes no INT8 graph.
    """
    size = model.config.image_size
    models: dict[str, onnx.ModelProto] = {}
    graphs: dict[bundle.GraphName, bundle.Graph] = {}
    for precision, kept in plans.items():
        name = VISION_GRAPHS[precision]
        file = f"{name}.onnx"
        report(f"exporting {file}")
        example = torch.zeros(2, 3, size, size)
        pipeline = shipped_vision(model, precision, fp32=kept, inline=inline)
        models[file] = export_graph(pipeline, example, VISION, precision=precision, fp32=kept)
        graphs[name] = describe_graph(models[file], file, precision=precision, fp32=kept)
    if quantize is not None:
        report("quantizing vision.int8.onnx")
        models["vision.int8.onnx"] = quantize(models["vision.onnx"])
        store_as_half(models["vision.int8.onnx"])
        graphs["vision.int8"] = describe_graph(
            models["vision.int8.onnx"], "vision.int8.onnx", precision="int8"
        )
    store_as_half(models["vision.onnx"])
    if isinstance(model, OVSDINO) and survives_half(model):
        save_model(model, staging / CHECKPOINT, dtype=torch.float16)
        held = Checkpoint(staging / CHECKPOINT)
        save_sharing_weights(models, staging, DATA_FILE, checkpoint=held)
    elif len(models) > 1:
        save_sharing_weights(models, staging, DATA_FILE)
    else:
        onnx.save(models["vision.onnx"], staging / "vision.onnx")
    return graphs


def features_of(model: Network, pixels: Floats) -> Floats:
    """Return the torch model's unit-length features: (n, 3, S, S) -> (n, D, h, w)."""

    def run(batch: Floats) -> Floats:
        with torch.inference_mode():
            features: Floats = unit(model(torch.from_numpy(batch))).numpy()
        return features

    return parity.in_batches(run, pixels)


def vision_parity(
    model: Network,
    graphs: dict[bundle.GraphName, bundle.Graph],
    *,
    staging: Path,
    pixels: Floats,
    expected: Floats,
    bank: Floats,
) -> dict[bundle.GraphName, bundle.Parity]:
    """Compare the vision graphs with the model's features.

    FP16 and BF16 are also computed in torch, which rounds after each operation. On a CPU, ONNX Runtime
    computes FP16 graphs in FP32 and cannot run BF16.
    """
    figures: dict[bundle.GraphName, bundle.Parity] = {}
    for name, graph in graphs.items():
        if name in ("text", "projection"):
            continue
        encoders = []
        if graph.precision != "bf16":
            encoders.append(parity.onnx_encoder(staging / graph.file, VISION))
        if graph.precision in ("fp16", "bf16"):
            pipeline = VisionPipeline(model, graph.precision, fp32=graph.fp32)
            encoders.append(parity.torch_encoder(pipeline))
        for encoder in encoders:
            actual = parity.in_batches(encoder, pixels)
            figure = parity.compare(expected, actual, bank=bank, thresholds=parity.THRESHOLDS[name])
            figures[name] = parity.worse(figures[name], figure) if name in figures else figure
    return figures


def write_golden(staging: Path, photos: TestPhotos, expected: Floats) -> None:
    """Write the golden pair, which every engine must reproduce: a photo and its features from torch."""
    features = expected[0].astype(np.float16)  # (D, h, w)
    np.savez_compressed(staging / bundle.GOLDEN, image=photos.photos[0], features=features)


def make_manifest(
    model: Network,
    text: TextHalf,
    *,
    graphs: dict[bundle.GraphName, bundle.Graph],
    figures: dict[bundle.GraphName, bundle.Parity],
    source: str,
) -> bundle.Manifest:
    """Build the manifest: everything that the runtime needs to know."""
    config = model.config
    made_by = {"ovsdino": __version__, "parity photos": source} | program_versions(PROGRAMS)
    return bundle.Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=config.name,
        model=config.to_dict(),
        preprocessing=preprocessing(config),
        windows=windows(config),
        refine=refinement(config),
        head=bundle.Head(model.head.scale.item(), model.head.bias.item(), config.background),
        templates=text.templates,
        text=bundle.TextInfo(config.text_width, text.context_length),
        graphs={name: graphs[name] for name in bundle.GRAPHS if name in graphs},
        parity={str(name): figure for name, figure in figures.items()},
        licences=licences(config.name),
        made_by=made_by,
    )
