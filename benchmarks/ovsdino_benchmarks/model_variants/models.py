"""The forms of a model, each with the runtime's engine interface."""

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ovsdino_benchmarks.datasets.protocol import Protocol, require_runnable, templates_of
from ovsdino_benchmarks.model_variants import dinov3seg as dinov3seg_forms
from ovsdino_benchmarks.model_variants.full_masks import merge_masks, put_background
from ovsdino_benchmarks.model_variants.sam_structure import SamStructure
from ovsdino_runtime.base.arrays import read_arrays
from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.locks import hold_lock
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.bundle.bundle import Bundle, Head, load_bundle
from ovsdino_runtime.bundle.manifest import DINOV3SEG_STAGES
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.engines.onnxruntime import Engine, open_vision
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.types import Array, Floats, Photo
from ovsdino_runtime.geometry.windows import WindowPolicy
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import ClassEncoder, TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary

log = logging.getLogger(__name__)
TorchModule = Any  # torch.nn.Module; torch is imported when it runs
Form = Literal["onnx", "onnx-fp16", "onnx-int8", "torch"]
FORMS: tuple[Form, ...] = ("onnx", "onnx-fp16", "onnx-int8", "torch")
PRECISIONS: dict[Form, Precision] = {"onnx-fp16": "fp16", "onnx-int8": "int8"}  # others: fp32


@dataclass(frozen=True)
class ModelSpec:
    """A model and its form. Small and picklable, so that worker processes can open it."""

    model: str = "nano"  # a packaged model, or the path of a bundle
    form: Form = "onnx"
    checkpoint: Path | None = None  # of the torch form; None takes the packaged weights
    threads: int | None = None  # None: all processors
    sam: Path | None = None  # of the torch form: SAM's features in place of the encoder's

    @property
    def label(self) -> str:
        """Name of the form in results."""
        return self.form if self.sam is None else f"{self.form}+sam"


class TorchVision:
    """The torch network as an engine, eager or compiled.

    Args:
        model: maps pixels (B, 3, S, S) to features (B, D, h, w).
        threads: number of computing threads; None uses all processors.
        compiled: whether to use ``torch.compile``.
    """

    def __init__(self, model: TorchModule, *, threads: int | None = None, compiled: bool = False) -> None:
        import torch

        torch.set_num_threads(threads or available_threads())
        self._model: Any = torch.compile(model) if compiled else model
        mode = "compiled" if compiled else "eager"
        self.description = f"torch {torch.__version__} {mode} on the CPU, {torch.get_num_threads()} threads"

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute features of unit length, as the vision graph of a bundle does."""
        import torch

        from ovsdino.network.head import unit

        with torch.inference_mode():
            features = unit(self._model(torch.from_numpy(inputs["pixels"])))  # (B, D, h, w)
        return {"features": features.numpy()}


class OfficialText:
    """Embed classes of which several may have the same name, as in some official lists.

    The runtime rejects such classes, because only the first of them can win; in a benchmark they count. Each
    name is encoded once.
    """

    def __init__(self, encoder: ClassEncoder) -> None:
        self._encoder = encoder

    def encode_classes(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Floats:
        """Encode each name once; all classes with this name share the embedding. Shape: (N, D)."""
        entries = [tuple(word.strip() for word in words) for words in vocabulary.entries]
        unique = list(dict.fromkeys(entries))
        if len(unique) == len(entries):
            return self._encoder.encode_classes(vocabulary, templates)
        rows = self._encoder.encode_classes(Vocabulary(tuple(unique)), templates)  # (n, D)
        place = {words: row for row, words in enumerate(unique)}
        return rows[[place[words] for words in entries]]


class SharedText:
    """Embed classes once for all processes of a run and for resumed runs.

    Args:
        encoder: encodes the classes the first time.
        file: file of the embeddings (N, D); the first process writes it, all others read it.
    """

    def __init__(self, encoder: ClassEncoder, file: Path) -> None:
        self._first = encoder
        self._file = file

    def encode_classes(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Floats:
        """Read the embeddings, or compute them. Shape: (N, D)."""
        count = len(vocabulary.entries)
        if (shared := self._read(count)) is not None:
            return shared
        embeddings = self._first.encode_classes(vocabulary, templates)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with hold_lock(self._file.with_suffix(".lock")):
            if (shared := self._read(count)) is not None:  # another process was faster
                return shared
            write_whole(self._file, lambda file: np.savez(file, embeddings=embeddings))
        return embeddings

    def _read(self, count: int) -> Floats | None:
        """Read the embeddings; None if there are none. The archive holds a checksum of them."""
        try:
            shared: Floats = read_arrays(self._file, ["embeddings"])["embeddings"]
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("%s: damaged, the classes are encoded again: %s", self._file, error)
            return None
        if shared.dtype.kind == "f" and shared.ndim == 2 and len(shared) == count:
            return shared
        log.warning("%s: of other classes; they are encoded again", self._file)
        return None


def open_bundle(model: str, protocol: Protocol) -> Bundle:
    """Open a bundle and apply the settings of a protocol.

    Raises:
        BundleError: there is no such model.
        ProtocolError: the bundle cannot follow the protocol.
    """
    bundle = load_bundle(find_bundle(model))
    require_runnable(protocol, bundle.manifest)
    if bundle.manifest.dinov3seg is not None:  # its sizes are in its graphs; only the step is the protocol's
        windows = WindowPolicy(bundle.manifest.windows.size, protocol.stride)
        return Bundle(bundle.path, replace(bundle.manifest, windows=windows))
    limits = bundle.manifest.preprocessing
    sizes = Preprocessing(protocol.short_side, protocol.long_side, mean=limits.mean, std=limits.std)
    windows = WindowPolicy(protocol.window, protocol.stride, taper=protocol.taper)
    refine = bundle.manifest.refine if protocol.refine else None
    manifest = replace(bundle.manifest, preprocessing=sizes, windows=windows, refine=refine)
    return Bundle(bundle.path, manifest)


def open_engine(bundle: Bundle, spec: ModelSpec, *, random_weights: bool = False) -> Engine:
    """Open the vision engine of a model form.

    Args:
        bundle: the model.
        spec: the form.
        random_weights: whether the torch form may use random weights if it has none, to measure its speed.

    Raises:
        EngineError: torch is not installed, or as `open_vision`.
        CheckpointError: the torch form's weights are missing.
    """
    if spec.form == "torch" and spec.sam is not None:
        engine = TorchVision(with_sam(bundle, spec, spec.sam), threads=spec.threads)
        engine.description += f", SAM's features ({spec.sam.name})"
        return engine
    if spec.form == "torch":
        return TorchVision(load_torch(bundle, spec, random_weights=random_weights), threads=spec.threads)
    precision = PRECISIONS.get(spec.form, "fp32")
    return open_vision(bundle, threads=spec.threads, precision=precision)


def load_torch(bundle: Bundle, spec: ModelSpec, *, random_weights: bool = False) -> TorchModule:
    """Build the torch network from which a bundle was exported; see `open_engine`."""
    try:
        from ovsdino.network.checkpoint import PACKAGED, load_model, read_config
        from ovsdino.network.config import ModelConfig
        from ovsdino.network.model import OVSDINO
    except ImportError as error:
        raise EngineError(
            f"the torch form needs {error.name}, which is not installed: {install_command('export')}"
        ) from error
    if random_weights and spec.checkpoint is None and bundle.manifest.name not in PACKAGED:
        try:
            return OVSDINO(ModelConfig.from_dict(bundle.manifest.model)).eval()
        except ValueError as error:
            raise EngineError(f"{bundle.path}: its network is not one that this version can build") from error
    if spec.sam is not None and spec.checkpoint is not None and spec.checkpoint.suffix == ".safetensors":
        bare = f"{bundle.manifest.name}-no-encoder"  # has no bundle: it cannot run without SAM
        if spec.checkpoint.is_file() and read_config(spec.checkpoint).name == bare:
            return load_model(bare, spec.checkpoint)
    return load_model(bundle.manifest.name, spec.checkpoint)


def with_sam(bundle: Bundle, spec: ModelSpec, sam: Path) -> SamStructure:
    """Build the torch network that takes SAM's features; raises as `SamStructure` and `load_torch`."""
    return SamStructure(load_torch(bundle, spec), sam, bundle.manifest.preprocessing)


def head_of(bundle: Bundle, spec: ModelSpec) -> Head:
    """Return the head of the bundle or, for the torch form, of the checkpoint, which may differ."""
    if spec.form != "torch" or bundle.manifest.dinov3seg is not None:
        return bundle.manifest.head
    head = load_torch(bundle, spec).head
    return replace(bundle.manifest.head, scale=head.scale.item(), bias=head.bias.item())


def graph_of(form: Form) -> str:
    """Return the name of an ONNX form's vision graph."""
    return f"vision.{PRECISIONS[form]}" if form in PRECISIONS else "vision"


def open_text(bundle: Bundle, threads: int | None) -> TextEncoder:
    """Open a bundle's text encoder, with the user's own cache of phrases."""
    return TextEncoder(bundle, TextCache(cache_dir() / "text.sqlite3"), threads=threads)


def open_segmenter(spec: ModelSpec, protocol: Protocol, *, text_file: Path | None = None) -> Segmenter:
    """Open a model form with the settings of a protocol.

    Args:
        spec: the form.
        protocol: the protocol to follow.
        text_file: see `SharedText`; None encodes classes as in normal use.
    """
    bundle = open_bundle(spec.model, protocol)
    own = OfficialText(open_text(bundle, spec.threads))
    text = own if text_file is None else SharedText(own, text_file)
    templates = templates_of(protocol, bundle.manifest)
    if bundle.manifest.dinov3seg is not None:
        pipeline = open_dinov3seg(bundle, spec)
        return Segmenter(bundle, pipeline.vision, text=text, templates=templates, pipeline=pipeline)
    return Segmenter(
        Bundle(bundle.path, replace(bundle.manifest, head=head_of(bundle, spec))),
        open_engine(bundle, spec),
        text=text,
        templates=templates,
        antialias=protocol.antialias,
    )


def label_by_full_masks(
    segmenter: Segmenter, photo: Photo, vocabulary: Vocabulary, *, protocol: Protocol, threshold: float | None
) -> Segmentation:
    """Label a photo from full-size window scores, for protocols that the runtime's merge cannot follow.

    Args:
        segmenter: a model with a cosine head, opened by `open_segmenter`.
        photo: (H, W, 3) RGB.
        vocabulary: classes, with or without a background.
        protocol: what is averaged, and how windows are upsampled.
        threshold: background threshold; None uses the model's own if the vocabulary has a background.
    """
    head = segmenter.bundle.manifest.head
    text = segmenter.encode_text(vocabulary)  # (N, D)
    encoded = segmenter.pipeline.encode(photo)
    scores = [
        head.scale * (features.transpose(1, 2, 0) @ text.T) + head.bias for features in encoded.features
    ]  # each (h, w, N), logits
    if protocol.average == "probabilities":
        scores = [1 / (1 + np.exp(-logits)) for logits in scores]
    prepared = encoded.prepared
    labels, best = merge_masks(
        scores,
        prepared.windows,
        resized=(prepared.resized.shape[0], prepared.resized.shape[1]),
        photo=prepared.size,
        align_corners=protocol.align_corners,
    )
    if protocol.average == "logits":
        best = np.reciprocal(1 + np.exp(-best))
    if threshold is None and vocabulary.background:
        threshold = head.background
    labels = put_background(labels, best, threshold)
    name, engine = segmenter.bundle.manifest.name, segmenter.vision.description
    return Segmentation(
        photo=encoded.photo,
        labels=labels,
        scores=None,
        classes=vocabulary.names,
        background=threshold,
        model=name,
        engine=engine,
        timings=dict(encoded.timings),
    )


def open_dinov3seg(bundle: Bundle, spec: ModelSpec, *, random_weights: bool = False) -> Dinov3segPipeline:
    """Open the form of a dinov3.seg model; raises as `load_network` and `open_dinov3seg_pipeline`."""
    if spec.sam is not None:
        raise EngineError(f"--sam: {bundle.manifest.name} has no encoder that SAM's features could replace")
    if spec.form == "torch":
        network = dinov3seg_forms.load_network(bundle, spec.checkpoint, random_weights=random_weights)
        return dinov3seg_forms.open_torch(bundle, network, threads=spec.threads)
    precision = PRECISIONS.get(spec.form, "fp32")
    return dinov3seg_forms.open_pipeline(bundle, precision=precision, threads=spec.threads)


def hash_form(spec: ModelSpec, bundle: Bundle) -> str:
    """Hash everything that decides the labels of a form of a model, except the protocol."""
    parts = [spec.form, bundle.graph_digest("text"), repr(bundle.manifest.head)]
    if bundle.manifest.dinov3seg is not None:
        parts.append(repr(bundle.manifest.dinov3seg))
    if spec.form == "torch":
        dinov3seg = bundle.manifest.dinov3seg is not None
        network = (
            dinov3seg_forms.load_network(bundle, spec.checkpoint) if dinov3seg else load_torch(bundle, spec)
        )
        state = network.state_dict()
        parts += [hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for tensor in state.values()]
        if spec.sam is not None:
            parts.append(with_sam(bundle, spec, spec.sam).teacher.digest)
    else:
        graph = graph_of(spec.form)
        if graph not in bundle.manifest.graphs:
            kind = PRECISIONS[spec.form]
            raise BundleError(f"{bundle.path}: has no graph {graph}; export it with --{kind}")
        suffix = graph.removeprefix("vision")
        stages = [
            stage for stage in ("vision", *DINOV3SEG_STAGES) if stage + suffix in bundle.manifest.graphs
        ]
        parts += [bundle.graph_digest(stage + suffix) for stage in stages]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest()
