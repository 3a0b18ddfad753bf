"""Open a model that labels photos by a protocol: a bundle, or the torch networks of a published model."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ovsdino_benchmarks.datasets.protocol import Protocol, ProtocolError
from ovsdino_benchmarks.model_variants import models
from ovsdino_benchmarks.model_variants import talk2dino as talk2dino_form
from ovsdino_benchmarks.model_variants import zero_shot as zero_shot_form
from ovsdino_benchmarks.model_variants.models import ModelSpec, SharedText
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.text.class_lists import labelled_background
from ovsdino_runtime.text.encoder import ClassEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary


@dataclass(frozen=True)
class Labeller:
    """The functions of a model that an evaluation calls."""

    name: str
    engine: str
    background: float | None  # the model's own threshold; None: it names every pixel
    encode_text: Callable[[Vocabulary], Floats]
    label: Callable[[Photo, Vocabulary, float | None], Segmentation]  # photo, classes, threshold


def is_zero_shot(spec: ModelSpec, protocol: Protocol) -> bool:
    """Tell whether a model is a dino.txt that runs from its official files, without a bundle."""
    return spec.model in zero_shot_form.ZERO_SHOT and spec.form == "torch" and protocol.name == "dinotxt"


def is_talk2dino(spec: ModelSpec) -> bool:
    """Tell whether a model is a Talk2DINO that runs from its official files, without a bundle."""
    return spec.model in talk2dino_form.MODELS and spec.form == "torch"


def open_labeller(spec: ModelSpec, protocol: Protocol, *, text_file: Path | None = None) -> Labeller:
    """Open a model form that follows a protocol; see `models.open_segmenter`."""
    if is_zero_shot(spec, protocol):
        return _open_zero_shot(spec, protocol, text_file)
    if is_talk2dino(spec):
        return _open_talk2dino(spec, protocol, text_file)
    segmenter = models.open_segmenter(spec, protocol, text_file=text_file)
    manifest = segmenter.bundle.manifest
    if protocol.needs_full_masks:
        return Labeller(
            name=manifest.name,
            engine=segmenter.vision.description,
            background=manifest.head.background,
            encode_text=segmenter.encode_text,
            label=lambda photo, classes, threshold: models.label_by_full_masks(
                segmenter, photo, classes, protocol=protocol, threshold=threshold
            ),
        )
    return Labeller(
        name=manifest.name,
        engine=segmenter.vision.description,
        background=manifest.head.background,
        encode_text=segmenter.encode_text,
        label=lambda photo, classes, threshold: segmenter(
            photo, classes, background=labelled_background(classes, threshold)
        ),
    )


def hash_labeller(spec: ModelSpec, protocol: Protocol) -> str:
    """Hash everything that decides the labels of a form of a model, except the protocol.

    Raises:
        ProtocolError: the model cannot follow the protocol.
        OvsdinoError: the model or its weights are missing.
    """
    if is_zero_shot(spec, protocol) or is_talk2dino(spec):
        weights = zero_shot_form.hash_checkpoint(spec.checkpoint)
        return hashlib.sha256(f"{spec.model} {weights}".encode()).hexdigest()
    return models.hash_form(spec, models.open_bundle(spec.model, protocol))


def _open_talk2dino(spec: ModelSpec, protocol: Protocol, text_file: Path | None) -> Labeller:
    model = talk2dino_form.open_talk2dino(
        spec.model, spec.checkpoint, protocol=protocol, threads=spec.threads
    )
    encode = _remember(model if text_file is None else SharedText(model, text_file))
    return Labeller(
        name=model.name,
        engine=model.engine,
        background=model.background,
        encode_text=encode,
        label=lambda photo, classes, threshold: model.label(
            photo, classes, text=encode(classes), threshold=threshold
        ),
    )


def _remember(text: ClassEncoder) -> Callable[[Vocabulary], Floats]:
    """Return a function that embeds each vocabulary once, with the templates of the protocol."""
    encoded: dict[tuple[tuple[str, ...], ...], Floats] = {}

    def encode(vocabulary: Vocabulary) -> Floats:
        if vocabulary.classes not in encoded:
            encoded[vocabulary.classes] = text.encode_classes(vocabulary, ())
        return encoded[vocabulary.classes]

    return encode


def _open_zero_shot(spec: ModelSpec, protocol: Protocol, text_file: Path | None) -> Labeller:
    model = zero_shot_form.open_zero_shot(
        spec.model, spec.checkpoint, protocol=protocol, threads=spec.threads
    )
    encode = _remember(model if text_file is None else SharedText(model, text_file))

    def label(photo: Photo, vocabulary: Vocabulary, threshold: float | None) -> Segmentation:
        if vocabulary.background or threshold is not None:
            raise ProtocolError(
                f"protocol {protocol.name} gives every pixel a class, got classes with a background; "
                "choose a benchmark without one, such as voc20, context59 or ade20k"
            )
        return model.label(photo, vocabulary, encode(vocabulary))

    return Labeller(name=model.name, engine=model.engine, background=None, encode_text=encode, label=label)
