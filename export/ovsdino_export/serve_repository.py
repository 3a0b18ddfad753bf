"""Write a bundle as a model repository of Triton Inference Server.

    photo ──► NAME_prepare ──► NAME_vision ──┐
    classes ► NAME_words ⇄ NAME_text ────────┼──► NAME_head ──► labels, scores
    background ──────────────────────────────┘

NAME is the ensemble. NAME_vision and NAME_text are the bundle's graphs, which the server batches over
requests; the other three are Python models that use `ovsdino_runtime.serve.triton_steps`. The version folder
of NAME_vision contains the bundle itself.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.bundle.bundle import Bundle, Graph, Tensor
from ovsdino_runtime.bundle.exchange import exchange, staging_folder, sweep_staging
from ovsdino_runtime.geometry.windows import plan_windows
from ovsdino_runtime.text.encoder import BATCH

VERSION = "1"
TYPES = {"float32": "TYPE_FP32", "int64": "TYPE_INT64"}
DELAY_US = 1000  # that a request waits for others
PYTHON_AT_ONCE = 2

MODEL_PY = '''"""{what}; see ovsdino_runtime.serve.triton_steps."""

from pathlib import Path

from ovsdino_runtime.serve.triton_steps import {step}, respond

BUNDLE = Path(__file__).resolve().parents[2] / "{name}_vision" / "{version}"


class TritonPythonModel:
    """The model class that Triton's Python backend calls."""

    def initialize(self, args):
        self.step = {step}({arguments})

    def execute(self, requests):
        return respond(requests, self.step)
'''


@dataclass(frozen=True)
class Port:
    """An input or output of a model."""

    name: str
    kind: str
    dims: tuple[int, ...]


PHOTO = Port("photo", "TYPE_UINT8", (-1,))
CLASSES = Port("classes", "TYPE_STRING", (-1,))
BACKGROUND = Port("background", "TYPE_FP32", (1,))
SIZE = Port("size", "TYPE_INT32", (2,))
LABELS = Port("labels", "TYPE_UINT16", (-1, -1))
SCORES = Port("scores", "TYPE_FP16", (-1, -1))


def write_repository(
    bundle: Bundle, folder: Path, *, fp16: bool = False, overwrite: bool = False
) -> list[Path]:
    """Write the models of a bundle into a repository, which may contain others.

    Args:
        bundle: the model.
        folder: the repository.
        fp16: whether to serve the vision graph in FP16.
        overwrite: whether to replace existing models.

    Returns:
        The folders of the models, the ensemble's last.

    Raises:
        OutputError: the bundle is a dinov3.seg, which is not supported yet, or the folder cannot be written.
    """
    name = bundle.manifest.name
    vision = "vision.fp16" if fp16 else "vision"
    if bundle.manifest.dinov3seg is not None:
        raise OutputError(
            f"{bundle.path}: a bundle of dinov3.seg has no Triton repository yet; `ovsdino serve` serves it"
        )
    if vision not in bundle.manifest.graphs:
        raise OutputError(f"{bundle.path}: has no graph {vision}; export it with --fp16")
    configs = _configs(bundle, vision)
    if taken := [folder / model for model in configs if (folder / model).exists() and not overwrite]:
        raise OutputError(
            f"{taken[0]}: exists already; choose another --serve-repository, or give --overwrite"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        sweep_staging(folder / name)
        with staging_folder(folder / name) as staging:
            for model, config in configs.items():
                fresh = staging / "new" / model
                (fresh / VERSION).mkdir(parents=True)
                (fresh / "config.pbtxt").write_text(config, encoding="utf-8")
                _fill(fresh / VERSION, model, bundle)
            for model in configs:
                exchange(staging / "new" / model, folder / model, old=staging / f"{model}.old")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return [folder / model for model in configs]


def _fill(version: Path, model: str, bundle: Bundle) -> None:
    """Write the files of a model into its version folder."""
    name = bundle.manifest.name
    if model == f"{name}_vision":
        shutil.copytree(bundle.path, version, dirs_exist_ok=True)
    elif model == f"{name}_text":
        for file in ("text.onnx", "text.data"):
            if file in bundle.manifest.files:
                shutil.copyfile(bundle.file(file), version / file)
    elif model in (steps := _steps(name)):
        what, step, arguments = steps[model]
        text = MODEL_PY.format(what=what, step=step, name=name, version=VERSION, arguments=arguments)
        (version / "model.py").write_text(text, encoding="utf-8")


def _steps(name: str) -> dict[str, tuple[str, str, str]]:
    return {
        f"{name}_prepare": ("Photos to windows", "PrepareStep", "BUNDLE"),
        f"{name}_words": ("Classes to text", "WordsStep", f'BUNDLE, "{name}_text"'),
        f"{name}_head": ("Features and text to labels", "HeadStep", "BUNDLE"),
    }


def _configs(bundle: Bundle, vision: str) -> dict[str, str]:
    """Return the config.pbtxt of each model, the ensemble's last."""
    name, graphs = bundle.manifest.name, bundle.manifest.graphs
    pixels, features = _port(graphs[vision].inputs[0]), _port(graphs[vision].outputs[0])
    windows = Port(pixels.name, pixels.kind, (-1, *pixels.dims))
    seen = Port(features.name, features.kind, (-1, *features.dims))
    text = Port("text", "TYPE_FP32", (-1, bundle.manifest.text.width))
    return {
        f"{name}_vision": _graph_config(f"{name}_vision", graphs[vision], batch=_most_windows(bundle)),
        f"{name}_text": _graph_config(f"{name}_text", graphs["text"], batch=BATCH),
        f"{name}_prepare": _python_config(f"{name}_prepare", (PHOTO,), (windows, SIZE)),
        f"{name}_words": _python_config(f"{name}_words", (CLASSES,), (text,)),
        f"{name}_head": _python_config(f"{name}_head", (seen, text, SIZE, BACKGROUND), (LABELS, SCORES)),
        name: _ensemble_config(name),
    }


def _most_windows(bundle: Bundle) -> int:
    """Return the number of windows of the largest photo, the largest request for the vision graph."""
    limits, policy = bundle.manifest.preprocessing, bundle.manifest.windows
    return len(plan_windows(limits.short_side, limits.long_side, size=policy.size, stride=policy.stride))


def _port(tensor: Tensor) -> Port:
    """Describe an input or output of a graph without its batch axis."""
    return Port(
        tensor.name,
        TYPES[tensor.dtype],
        tuple(side if isinstance(side, int) else -1 for side in tensor.shape[1:]),
    )


def _graph_config(model: str, graph: Graph, *, batch: int) -> str:
    return (
        f'name: "{model}"\nbackend: "onnxruntime"\ndefault_model_filename: "{graph.file}"\n'
        f"max_batch_size: {batch}\n"
        + _ports("input", map(_port, graph.inputs))
        + _ports("output", map(_port, graph.outputs))
        + f"dynamic_batching {{ max_queue_delay_microseconds: {DELAY_US} }}\n"
    )


def _python_config(model: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> str:
    return (
        f'name: "{model}"\nbackend: "python"\nmax_batch_size: 0\n'
        + _ports("input", inputs)
        + _ports("output", outputs)
        + f"instance_group [ {{ kind: KIND_CPU count: {PYTHON_AT_ONCE} }} ]\n"
        + 'parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "yes" } }\n'
    )


def _ensemble_config(name: str) -> str:
    steps = (
        _step(f"{name}_prepare", {"photo": "photo"}, {"pixels": "pixels", "size": "size"}),
        _step(f"{name}_vision", {"pixels": "pixels"}, {"features": "features"}),
        _step(f"{name}_words", {"classes": "classes"}, {"text": "text"}),
        _step(
            f"{name}_head",
            {key: key for key in ("features", "text", "size", "background")},
            {"labels": "labels", "scores": "scores"},
        ),
    )
    return (
        f'name: "{name}"\nplatform: "ensemble"\nmax_batch_size: 0\n'
        + _ports("input", (PHOTO, CLASSES, BACKGROUND))
        + _ports("output", (LABELS, SCORES))
        + f"ensemble_scheduling {{\n{''.join(steps)}}}\n"
    )


def _ports(kind: str, ports: Iterable[Port]) -> str:
    return "".join(
        f'{kind} {{ name: "{port.name}" data_type: {port.kind} dims: {list(port.dims)} }}\n' for port in ports
    )


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [
        f'    {kind} {{ key: "{key}" value: "{value}" }}\n'
        for kind, names in (("input_map", inputs), ("output_map", outputs))
        for key, value in names.items()
    ]
    return f'  step {{\n    model_name: "{model}"\n    model_version: -1\n{"".join(maps)}  }}\n'
