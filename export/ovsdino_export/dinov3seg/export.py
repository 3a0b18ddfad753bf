"""Export dinov3.seg to a bundle: the steps, in order."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
import onnx
import torch
from tokenizers import Tokenizer
from torch import nn

from ovsdino import __version__
from ovsdino.dinov3seg.checkpoint import load_dinov3seg
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.presets import PRESETS as DINOV3SEG_PRESETS
from ovsdino.network.checkpoint import TOKENIZER, packaged_file
from ovsdino.network.text_tower import TextTower
from ovsdino_export import parity
from ovsdino_export.clip import clip_tokenizer
from ovsdino_export.dinov3seg.parity import (
    GraphDinov3seg,
    chain_logits,
    compare_logits,
    onnx_run,
    torch_run,
)
from ovsdino_export.dinov3seg.pipelines import StageSpec, make_stages
from ovsdino_export.graphs.graph import describe_graph, export_graph
from ovsdino_export.graphs.storage import WeightFile, store_as_half
from ovsdino_export.graphs.versions import program_versions
from ovsdino_export.networks import OTHER_LICENCES
from ovsdino_export.photos import TestPhotos, gather_photos
from ovsdino_export.request import ExportRequest, check_target
from ovsdino_export.rewrite.half_precision import ATTENTION
from ovsdino_export.text import TextHalf
from ovsdino_export.text_graph import export_text, text_parity
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.scratch import scratch_folder
from ovsdino_runtime.bundle import bundle
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.windows import WindowPolicy

Floats = npt.NDArray[np.float32]
Report = Callable[[str], None]

DATA_FILES = {"vision": "vision.data", "whole": "vision.data", "guidance": "guidance.data"}
GOLDEN_CLASSES = 16
PROGRAMS = ("torch", "timm", "segment-anything", "onnx", "onnxscript", "onnxruntime", "tokenizers")


@dataclass(frozen=True)
class Labelled:
    """Preprocessed photos, words, and the network's logits of them."""

    source: str
    views: Floats  # (n, 3, V, V)
    text: Floats  # (N, text width)
    logits: Floats  # (n, N, 4g, 4g)


def export_dinov3seg(request: ExportRequest, report: Report) -> bundle.Bundle:
    """Export dinov3.seg, compare the chain of its graphs with it, and write the bundle.

    Raises:
        OvsdinoError: weights are missing or do not match, or a graph misses a threshold. Nothing is written.
    """
    config = DINOV3SEG_PRESETS[request.model]
    refuse(request, config)
    target = check_target(request)
    report("loading weights")
    model = load_dinov3seg(request.model, request.checkpoint)
    photos = gather_photos(request.photos, config.inference.view, options=request.photo_options)
    with scratch_folder("export") as staging:
        half = text_half(model)
        graphs = export_text(half, staging, report)
        text, figures = text_parity(half, staging, config.templates[0])
        half.tokenizer.save(str(staging / bundle.TOKENIZER), pretty=False)
        half = replace(half, tower=nn.Identity())  # the tower is done with, and half of the full size
        del model.vlm.text
        report(f"labelling {photos.source} in torch")
        views = photos.pixels(preprocessing(config))
        inputs = Labelled(
            source=photos.source, views=views, text=text, logits=chain_logits(model, views, text)
        )
        write_golden(model, staging, photos=photos, inputs=inputs)
        chains, more = export_chain(model, staging, inputs, fp16=request.fp16, report=report)
        manifest = make_manifest(
            config,
            half,
            graphs=graphs | more,
            figures={"text": figures["text"], **chains},
            source=photos.source,
        )
        manifest = replace(manifest, name=request.name or manifest.name)
        report(f"writing {target}")
        return bundle.write_bundle(target, manifest, staging, overwrite=request.overwrite)


def export_chain(
    model: Dinov3Seg, staging: Path, inputs: Labelled, *, fp16: bool, report: Report
) -> tuple[dict[str, bundle.Parity], dict[bundle.GraphName, bundle.Graph]]:
    """Write all graphs except text, and compare their chain with the network.

    Raises:
        ParityError: the chain misses a threshold.
    """
    stages = make_stages(model)
    plans: dict[bundle.Precision, tuple[str, ...]] = {"fp32": ()}
    rounded = {}
    if fp16:
        plans["fp16"], rounded["fp16"] = try_half(model, stages, photos=inputs, report=report)
    graphs = export_stages(stages, staging, plans=plans, report=report)
    report(f"comparing with torch on {inputs.source}")
    figures: dict[str, bundle.Parity] = {}
    for precision in plans:
        figure = chain_parity(model, graphs, staging=staging, photos=inputs, precision=precision)
        name = "chain" if precision == "fp32" else f"chain.{precision}"
        figures[name] = parity.worse(figure, rounded.get(precision, figure))
        parity.require(name, figures[name])
    return figures, graphs


def refuse(request: ExportRequest, config: Dinov3segConfig) -> None:
    """Reject options that dinov3.seg bundles do not support, before any work is done.

    Raises:
        OvsdinoError: an option or a setting of the network is not supported; the message names it.
    """
    asked = {
        "--bf16": request.bf16,
        "--int8": request.int8,
        "--kernels": bool(request.kernels),
        "--text-checkpoint": request.text_checkpoint is not None,
    }
    if wrong := [option for option, given in asked.items() if given]:
        raise OvsdinoError(
            f"{wrong[0]} is not for {request.model}: its graphs are FP32 and FP16, text included"
        )
    if config.inference.fusion != "features":
        raise OvsdinoError(
            f"{request.model} fuses {config.inference.fusion}, which only torch does; "
            "export a model that fuses features"
        )
    if config.late and config.class_attention != "linear":
        raise OvsdinoError(
            f"{request.model} has {config.class_attention} attention between classes; only linear is exported"
        )


def text_half(model: Dinov3Seg) -> TextHalf:
    """Return the text tower of a network with its tokenizer."""
    config, tower = model.config, model.vlm.text
    if isinstance(tower, TextTower):
        tokenizer = Tokenizer.from_file(str(packaged_file(TOKENIZER)))
        return TextHalf(
            tower=tower, tokenizer=tokenizer, context_length=tower.config.context, templates=config.templates
        )
    return TextHalf(
        tower=cast(nn.Module, tower),
        tokenizer=clip_tokenizer(),
        context_length=config.vlm.text_context,
        templates=config.templates,
    )


def try_half(
    model: Dinov3Seg, stages: Mapping[str, StageSpec], *, photos: Labelled, report: Report
) -> tuple[tuple[str, ...], bundle.Parity]:
    """Find the layers that must stay in FP32 so that FP16 passes in torch: none, or the attention.

    Returns:
        The layers, and the agreement of torch with FP32.

    Raises:
        ParityError: FP16 does not pass with either.
    """
    kept: tuple[str, ...]
    for kept in ((), (ATTENTION,)):
        report(f"trying fp16{' with attention in FP32' if kept else ''} on {photos.source}")
        chain = GraphDinov3seg(model.config, list(stages), torch_run(stages, "fp16", kept))
        actual = chain_logits(chain, photos.views, photos.text)
        figure = compare_logits(photos.logits, actual, parity.CHAIN_THRESHOLDS["fp16"])
        if not list(parity.misses(figure)):
            break
    parity.require("chain.fp16", figure)
    return kept, figure


def export_stages(
    stages: Mapping[str, StageSpec],
    staging: Path,
    *,
    plans: Mapping[bundle.Precision, tuple[str, ...]],
    report: Report,
) -> dict[bundle.GraphName, bundle.Graph]:
    """Write each graph in each precision, with some layers in FP32; one graph at a time is in memory."""
    graphs: dict[bundle.GraphName, bundle.Graph] = {}
    with ExitStack() as stack:
        files = {DATA_FILES[name] for name in stages if name in DATA_FILES}
        weights = {name: stack.enter_context(WeightFile(staging / name)) for name in files}
        for name, stage in stages.items():
            for precision, kept in plans.items():
                own = cast(bundle.GraphName, name if precision == "fp32" else f"{name}.{precision}")
                file, wide = f"{own}.onnx", () if precision == "fp32" else (*kept, *stage.fp32)
                report(f"exporting {file}")
                pipeline = stage.build(precision=precision, fp32=kept)
                graph = export_graph(pipeline, stage.example, stage.spec, precision=precision, fp32=wide)
                del pipeline
                store_as_half(graph)
                graphs[own] = describe_graph(graph, file, precision=precision, fp32=wide)
                if name in DATA_FILES:
                    weights[DATA_FILES[name]].save(graph, file)
                else:
                    onnx.save(graph, staging / file)
                del graph  # before the next one is made
    return graphs


def chain_parity(
    model: Dinov3Seg,
    graphs: Mapping[bundle.GraphName, bundle.Graph],
    *,
    staging: Path,
    photos: Labelled,
    precision: bundle.Precision,
) -> bundle.Parity:
    """Run the files as the runtime does, and compare the labels of the photos with the network's."""
    own = {
        name.partition(".")[0]: graph
        for name, graph in graphs.items()
        if name != "text" and graph.precision == precision
    }
    chain = GraphDinov3seg(model.config, list(own), onnx_run(staging, own))
    actual = chain_logits(chain, photos.views, photos.text)
    return compare_logits(photos.logits, actual, parity.CHAIN_THRESHOLDS[precision])


def write_golden(model: Dinov3Seg, staging: Path, *, photos: TestPhotos, inputs: Labelled) -> None:
    """Write the golden file: the first photo and the network's outputs, which every engine must reproduce."""
    side, text = model.config.inference.window, inputs.text[:GOLDEN_CLASSES]
    with torch.inference_mode():
        features = model.vlm.vision(torch.from_numpy(inputs.views[:1, :, :side, :side])).numpy()[0]
    np.savez_compressed(
        staging / bundle.GOLDEN,
        image=photos.photos[0][:side, :side],
        features=features.astype(np.float16),  # (D, h, w)
        view=photos.photos[0],
        text=text,
        logits=chain_logits(model, inputs.views[:1], text)[0].astype(np.float16),  # (n, 4g, 4g)
    )


def preprocessing(config: Dinov3segConfig) -> Preprocessing:
    """Return the preprocessing: side of the view, and normalisation of colours."""
    view = config.inference.view
    return Preprocessing(view, view, mean=config.vlm.mean, std=config.vlm.std)


def half_columns(config: Dinov3segConfig) -> tuple[tuple[int, int], ...]:
    """Return the columns of a class embedding for each cost channel."""
    width = config.vlm.width
    if config.vlm.halves == 1:
        return ((0, width),)
    return tuple((0, width) if half == "global" else (width, 2 * width) for half in config.halves)


def make_manifest(
    config: Dinov3segConfig,
    text: TextHalf,
    *,
    graphs: Mapping[bundle.GraphName, bundle.Graph],
    figures: Mapping[str, bundle.Parity],
    source: str,
) -> bundle.Manifest:
    """Build the manifest: everything that the runtime needs to know."""
    how = config.inference
    return bundle.Manifest(
        schema_version=bundle.SCHEMA_VERSION,
        name=config.name,
        model=config.to_dict(),
        preprocessing=preprocessing(config),
        windows=WindowPolicy(how.window, how.stride),
        head=bundle.Head(1.0, 0.0, how.background),  # the decoder gives logits as they are
        templates=text.templates,
        text=bundle.TextInfo(config.vlm.text_width, text.context_length),
        graphs={name: graphs[name] for name in bundle.GRAPHS if name in graphs},
        parity=dict(figures),
        licences=OTHER_LICENCES,
        made_by={"ovsdino": __version__, "parity photos": source} | program_versions(PROGRAMS),
        dinov3seg=bundle.Dinov3seg(
            view=how.view,
            whole=how.whole,
            unit_length=how.unit_length,
            halves=half_columns(config),
            pad_length=config.pad_length,
            absent_logit=config.absent_logit,
        ),
    )
