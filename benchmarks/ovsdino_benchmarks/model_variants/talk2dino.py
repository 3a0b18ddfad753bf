"""Evaluate Talk2DINO by its official protocol, with the torch networks instead of a bundle."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_benchmarks.datasets.protocol import Protocol, ProtocolError
from ovsdino_benchmarks.model_variants.full_masks import Refine, area, merge_masks, put_background
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.geometry.preprocess import (
    Preprocessing,
    cut_windows,
    fit_size,
    normalise,
    resize_photo,
)
from ovsdino_runtime.geometry.types import Floats, Photo
from ovsdino_runtime.geometry.windows import Window, plan_windows
from ovsdino_runtime.text.vocabulary import Vocabulary, load_templates

Network = Any  # torch modules; torch is imported when it runs
TextTower = Any
MODELS = ("talk2dino-vitb14", "talk2dino-vitl14", "talk2dino-dinov3-vitb16")


class Talk2Dino:
    """Label photos with a Talk2DINO as ``dinotext_seg.py`` does, optionally with cleaning and PAMR.

    Source: lorebianchi98/Talk2DINO, ``models/dinotext/dinotext.py``,
    ``segmentation/evaluation/dinotext_seg.py``.

    Args:
        network: the vision tower, a `ovsdino.zoo.network.ZooNetwork`.
        text: the text tower, a `ovsdino.zoo.talk2dino.Talk2DinoText`.
        protocol: one that averages sigmoid probabilities or logits.
        threads: number of computing threads; None uses all processors.
    """

    def __init__(self, network: Network, text: TextTower, protocol: Protocol, *, threads: int | None) -> None:
        import torch

        torch.set_num_threads(threads or available_threads())
        self._network, self._text, self._protocol = network, text, protocol
        self.name = str(network.config.name)
        self.background = float(network.config.background)
        self.engine = f"torch {torch.__version__} eager on the CPU, {torch.get_num_threads()} threads"

    def encode_classes(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Floats:
        """Embed classes: the mean of CLIP's features of all prompts, projected. Shape: (N, D)."""
        import torch

        from ovsdino.zoo.class_embeddings import embed_classes

        chosen = tuple(templates) or load_templates(self._protocol.templates)
        with torch.inference_mode():
            embeddings: Floats = embed_classes(self._text, vocabulary.classes, chosen).numpy()
        return embeddings

    def label(
        self, photo: Photo, vocabulary: Vocabulary, *, text: Floats, threshold: float | None
    ) -> Segmentation:
        """Label a photo. Shape: photo (H, W, 3), text (N, D) of unit length."""
        start = time.perf_counter()
        protocol, config = self._protocol, self._network.config
        size = fit_size(*photo.shape[:2], short_side=protocol.short_side, long_side=protocol.long_side)
        resized = resize_photo(photo, *size, antialias=protocol.antialias)  # (H', W', 3)
        windows = plan_windows(*size, size=protocol.window, stride=protocol.stride)
        pixels = normalise(resized, Preprocessing(mean=config.mean, std=config.std))
        masks = [self._window_masks(cut_windows(pixels, [w], config.image_size), text) for w in windows]
        labels, scores = merge_masks(
            masks,
            windows,
            resized=size,
            photo=(photo.shape[0], photo.shape[1]),
            align_corners=protocol.align_corners,
            refine=self._refine(resized, windows) if protocol.pamr else None,
        )
        if protocol.average == "logits":
            scores = np.reciprocal(1 + np.exp(-scores))
        cut = self.background if threshold is None and vocabulary.background else threshold
        labels = put_background(labels, scores, cut)
        timings = {"label": round((time.perf_counter() - start) * 1000, 2)}
        return Segmentation(
            photo=photo,
            labels=labels,
            scores=None,
            classes=vocabulary.names,
            background=cut,
            model=self.name,
            engine=self.engine,
            timings=timings,
        )

    def _window_masks(self, pixels: Floats, text: Floats) -> Floats:
        """Return the masks of a window: (1, 3, S, S), (N, D) -> (h, w, N)."""
        import torch

        from ovsdino.zoo.background_cleaning import clean_background

        with torch.inference_mode():
            classes = torch.from_numpy(text)
            patches, attention = self._network.vision.with_attention(torch.from_numpy(pixels))
            masks = self._network.head(patches, classes)[0]  # (N, h, w), cosines
            if self._protocol.average == "probabilities":
                masks = masks.sigmoid()
            if weight := self._protocol.background_cleaning:
                masks = clean_background(
                    masks, patches[0], attention=attention[0], text=classes, weight=weight
                )
            scores: Floats = masks.permute(1, 2, 0).numpy()
        return scores

    def _refine(self, resized: Photo, windows: Sequence[Window]) -> Refine:
        """Return PAMR on the windows of a resized photo."""
        import torch

        from ovsdino.zoo.pamr import refine_masks

        def refine(number: int, masks: Floats) -> Floats:
            crop = np.ascontiguousarray(resized[area(windows[number])])  # (h', w', 3)
            photo = torch.from_numpy(crop).permute(2, 0, 1).float()
            with torch.inference_mode():
                better = refine_masks(
                    photo, torch.from_numpy(masks).permute(2, 0, 1), iterations=self._protocol.pamr
                )
            refined: Floats = better.permute(1, 2, 0).numpy()
            return refined

        return refine


def open_talk2dino(
    model: str, checkpoint: Path | None, *, protocol: Protocol, threads: int | None
) -> Talk2Dino:
    """Load a Talk2DINO from its official files.

    Raises:
        EngineError: torch is not installed.
        CheckpointError: a file is missing or invalid.
        ProtocolError: the protocol requires a step that Talk2DINO does not have.
    """
    try:
        from ovsdino.network.checkpoint import CheckpointError
        from ovsdino.zoo.checkpoint import load
    except ImportError as error:
        raise EngineError(
            f"the torch form needs {error.name}, which is not installed: {install_command('export')}"
        ) from error
    wrong = {
        "a square photo": protocol.short_side == 0,
        f"{protocol.interpolation} interpolation": protocol.interpolation != "bilinear",
        "averaged features": protocol.average == "features",
        "softmax probabilities": (protocol.average, protocol.probability) == ("probabilities", "softmax"),
        "templates of a bundle": protocol.templates == "model",
    }
    if faults := [what for what, applies in wrong.items() if applies]:
        raise ProtocolError(
            f"protocol {protocol.name}: the torch form of {model} has no {' and no '.join(faults)}; "
            "--protocol talk2dino or ovsdino can be run"
        )
    if checkpoint is None:
        raise CheckpointError(
            f"{model}: give its official file, or a folder with backbone, CLIP and projection "
            "(--checkpoint PATH); `ovsdino models` says where they are"
        )
    network, text = load(model, [checkpoint])
    return Talk2Dino(network, text, protocol=protocol, threads=threads)
