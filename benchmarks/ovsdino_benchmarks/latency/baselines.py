"""Implementations that are measured against each other: the runtime and baselines.

The baseline is mmsegmentation's loop: it encodes each window separately, upsamples the scores of all classes
to the window's size, averages overlapping windows, resizes the scores to the photo, and then takes the
argmax.
"""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovsdino_benchmarks.datasets.protocol import Protocol, own_protocol, templates_of
from ovsdino_benchmarks.model_variants import dinov3seg as dinov3seg_forms
from ovsdino_benchmarks.model_variants import models
from ovsdino_benchmarks.model_variants.models import Form, ModelSpec
from ovsdino_benchmarks.results.environment import memory
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.bundle.bundle import Bundle, load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.geometry.preprocess import cut_windows, fit_size, normalise, resize_bilinear
from ovsdino_runtime.geometry.types import Floats, Labels
from ovsdino_runtime.geometry.windows import plan_windows
from ovsdino_runtime.pipelines.pipeline import open_pipeline
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.vocabulary import Vocabulary

Way = Callable[[Path], Labels]
WayName = Literal["runtime", "openvino", "openvino-bf16", "int8", "torch", "torch-compile", "onnxruntime"]
ENGINES: dict[WayName, RuntimeOptions] = {  # the runtime itself, on other engines and in other precisions
    "openvino": RuntimeOptions(engine="openvino"),
    "openvino-bf16": RuntimeOptions(engine="openvino", precision="bf16"),
    "int8": RuntimeOptions(precision="int8"),
}
BASELINES: dict[WayName, str] = {
    "openvino": "the runtime on OpenVINO, FP32",
    "openvino-bf16": "the runtime on OpenVINO, BF16",
    "int8": "the runtime on ONNX Runtime, INT8",
    "torch": "torch eager, mmseg's loop",
    "torch-compile": "torch.compile, mmseg's loop",
    "onnxruntime": "ONNX Runtime with default options, mmseg's loop in numpy",
}
DINOV3SEG_BASELINES: dict[WayName, str] = {
    **BASELINES,
    "torch": "torch eager, all classes at the view's and the photo's size",
}
MEMORY_SHARE = 0.8  # of what is free


class RuntimeWay:
    """The runtime as a way; it keeps the times of its stages.

    Args:
        segmenter: labels photos.
        vocabulary: the classes.
    """

    def __init__(self, segmenter: Segmenter, vocabulary: Vocabulary) -> None:
        self._segmenter, self._vocabulary = segmenter, vocabulary
        self.engine = segmenter.vision.description
        self.timings: list[Mapping[str, float]] = []  # [ms] by stage, a photo each

    def __call__(self, file: Path) -> Labels:
        """Label a photo. Shape: (H, W)."""
        result = self._segmenter(file, self._vocabulary, background="none")
        self.timings.append(result.timings)
        return result.labels


@dataclass(frozen=True, kw_only=True)
class BaselineJob:
    """Everything that an implementation needs, so that a new process can run it."""

    way: WayName
    model: str
    form: Form
    checkpoint: str | None
    threads: int
    templates: str
    classes: tuple[tuple[str, ...], ...]
    text: str  # .npy of the classes' embeddings (N, D), for the ways that have no text encoder

    def spec(self) -> ModelSpec:
        """Return the model form."""
        return ModelSpec(
            self.model, self.form, Path(self.checkpoint) if self.checkpoint else None, threads=self.threads
        )

    def vocabulary(self) -> Vocabulary:
        """Return the classes."""
        return Vocabulary(self.classes)

    def protocol(self, bundle: Bundle) -> Protocol:
        """Return the bundle's own protocol with the requested templates."""
        return replace(own_protocol(bundle.manifest), templates=self.templates)


def choose_baselines(wanted: bool, *, compiled: bool, engines: bool = False) -> tuple[WayName, ...]:
    """Return the names of the implementations to measure against the runtime.

    Args:
        wanted: whether to include the baselines: torch eager and ONNX Runtime with default options.
        compiled: whether to add torch.compile to the baselines.
        engines: whether to include the runtime on OpenVINO and in INT8.
    """
    usual = [way for way in BASELINES if way not in ENGINES and (compiled or way != "torch-compile")]
    return (*(ENGINES if engines else ()), *(usual if wanted else ()))


def open_way(job: BaselineJob) -> Way:
    """Load a model; return a function that labels a photo."""
    bundle = load_bundle(find_bundle(job.model))
    if job.way == "runtime":
        return RuntimeWay(models.open_segmenter(job.spec(), job.protocol(bundle)), job.vocabulary())
    if job.way in ENGINES:
        return _runtime_on(bundle, job)
    text = np.load(job.text, allow_pickle=False)
    if bundle.manifest.dinov3seg is not None:
        return _torch_dinov3seg(bundle, job, text)
    if job.way == "onnxruntime":
        return _numpy_loop(bundle, job, text)
    return _torch_loop(bundle, job, text)


def why_not(job: BaselineJob, photo: tuple[int, int], manifest_limits: tuple[int, int]) -> str:
    """Return the reason why an implementation cannot be measured here; "" if it can.

    Args:
        job: the implementation.
        photo: height and width [px].
        manifest_limits: short and long side of the resized photo [px].
    """
    if job.way == "torch-compile" and not (
        shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    ):
        return "torch.compile needs a C++ compiler, and there is none"
    if job.way in ENGINES:
        return ""
    if job.way != "onnxruntime":
        try:
            import torch  # noqa: F401
        except ImportError:
            return "torch is not installed"
    height, width = fit_size(*photo, short_side=manifest_limits[0], long_side=manifest_limits[1])
    resized, full = height * width, photo[0] * photo[1]
    scores = 3 * resized + full  # torch: added up, one window's, divided; then at full size
    if job.way == "onnxruntime":  # numpy: added up, divided; rows, then three products at full size
        scores = 2 * resized + photo[0] * width + 3 * full
    needed = 4 * len(job.classes) * scores / 1e6
    free = memory("MemAvailable", Path("/proc/meminfo")) * MEMORY_SHARE
    if free and needed > free:
        return f"full-size scores of {len(job.classes)} classes need {needed:,.0f} MB, {free:,.0f} are free"
    return ""


def _runtime_on(bundle: Bundle, job: BaselineJob) -> Way:
    protocol = job.protocol(bundle)
    options = replace(ENGINES[job.way], threads=job.threads, antialias=protocol.antialias)
    pipeline = open_pipeline(models.open_bundle(job.model, protocol), options)
    templates = templates_of(protocol, bundle.manifest)
    text = models.open_text(bundle, job.threads)
    segmenter = Segmenter(bundle, pipeline.vision, text=text, templates=templates, pipeline=pipeline)
    return RuntimeWay(segmenter, job.vocabulary())


def _torch_loop(bundle: Bundle, job: BaselineJob, embeddings: Floats) -> Way:
    import torch
    import torch.nn.functional as F

    manifest = bundle.manifest
    limits, head, size = manifest.preprocessing, manifest.head, manifest.windows.size
    model = models.load_torch(bundle, job.spec(), random_weights=True)
    vision = models.TorchVision(model, threads=job.threads, compiled=job.way == "torch-compile")
    text = torch.from_numpy(embeddings)  # (N, D)
    mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (limits.mean, limits.std))

    def label(file: Path) -> Labels:
        photo = torch.from_numpy(load_photo(file).copy()).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
        height, width = fit_size(*photo.shape[2:], short_side=limits.short_side, long_side=limits.long_side)
        image = (F.interpolate(photo, (height, width), mode="bilinear") - mean) / std  # (1, 3, H', W')
        scores, image_features = torch.zeros(1, len(text), height, width), torch.zeros(1, 1, height, width)
        for w in plan_windows(height, width, size=size, stride=manifest.windows.stride):
            bottom, right = w.top + w.height, w.left + w.width
            crop = F.interpolate(image[:, :, w.top : bottom, w.left : right], (size, size), mode="bilinear")
            features = torch.from_numpy(vision.run({"pixels": crop.numpy()})["features"])  # (1, D, h, w)
            logits = head.scale * torch.einsum("bdhw,nd->bnhw", features, text) + head.bias
            logits = F.interpolate(logits, (w.height, w.width), mode="bilinear")
            scores += F.pad(logits, (w.left, width - right, w.top, height - bottom))
            image_features[:, :, w.top : bottom, w.left : right] += 1
        full = F.interpolate(scores / image_features, tuple(photo.shape[2:]), mode="bilinear")  # (1, N, H, W)
        return full.argmax(1)[0].numpy().astype(np.uint16)

    def without_gradients(file: Path) -> Labels:
        with torch.inference_mode():
            return label(file)

    return without_gradients


def _torch_dinov3seg(bundle: Bundle, job: BaselineJob, embeddings: Floats) -> Way:
    """Open dinov3.seg as its network is written: all classes at the size of the view, then of the photo."""
    import torch

    from ovsdino.dinov3seg.local_global import labels, predict

    if job.way != "torch":
        raise EngineError("it is for models with a cosine head")
    limits = bundle.manifest.preprocessing
    checkpoint = Path(job.checkpoint) if job.checkpoint else None
    torch.set_num_threads(job.threads)
    network = dinov3seg_forms.load_network(bundle, checkpoint, random_weights=True)
    text = torch.from_numpy(embeddings)  # (N, W)
    mean, std = (torch.tensor(values)[:, None, None] * 255 for values in (limits.mean, limits.std))

    def label(file: Path) -> Labels:
        photo = torch.from_numpy(load_photo(file).copy()).permute(2, 0, 1)[None].float()  # (1, 3, H, W)
        with torch.inference_mode():
            scores = predict(network, (photo - mean) / std, text)  # (1, N, V, V)
            result: Labels = labels(scores, photo.shape[2], photo.shape[3])[0].numpy().astype(np.uint16)
        return result

    return label


def _numpy_loop(bundle: Bundle, job: BaselineJob, text: Floats) -> Way:
    import onnxruntime as ort

    manifest = bundle.manifest
    limits, head, size = manifest.preprocessing, manifest.head, manifest.windows.size
    options = ort.SessionOptions()
    options.intra_op_num_threads = job.threads
    graph = manifest.graphs[models.graph_of(job.form)]
    file_of_graph = str(bundle.file(graph.file))
    session: Any = ort.InferenceSession(file_of_graph, options, providers=["CPUExecutionProvider"])

    def label(file: Path) -> Labels:
        photo = load_photo(file)  # (H, W, 3)
        height, width = fit_size(*photo.shape[:2], short_side=limits.short_side, long_side=limits.long_side)
        image = normalise(resize_bilinear(photo, height, width), limits)  # (H', W', 3)
        scores = np.zeros((height, width, len(text)), np.float32)
        image_features = np.zeros((height, width, 1), np.float32)
        for w in plan_windows(height, width, size=size, stride=manifest.windows.stride):
            features = session.run(None, {"pixels": cut_windows(image, [w], size)})[0][0]  # (D, h, w)
            logits = head.scale * (features.transpose(1, 2, 0) @ text.T) + head.bias  # (h, w, N)
            area = slice(w.top, w.top + w.height), slice(w.left, w.left + w.width)
            scores[area] += resize_bilinear(logits, w.height, w.width)
            image_features[area] += 1
        full = resize_bilinear(scores / image_features, *photo.shape[:2])  # (H, W, N)
        labels: Labels = full.argmax(axis=2).astype(np.uint16)
        return labels

    return label
