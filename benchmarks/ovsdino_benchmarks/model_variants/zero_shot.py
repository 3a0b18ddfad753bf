"""Evaluate zero-shot dino.txt by its official protocol, with the torch networks instead of a bundle."""

import hashlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_benchmarks.datasets.protocol import Protocol, ProtocolError
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.geometry.types import Floats, Labels, Photo
from ovsdino_runtime.text.vocabulary import Vocabulary

Vlm = Any  # the torch towers
ZERO_SHOT = ("dinotxt-vitl16",)  # models that can be run so
CLASSES_AT_ONCE = 16  # brought to the photo's size


class ZeroShot:
    """Label photos with dino.txt: softmax of raw cosines averaged over windows, resized, argmax.

    Source: facebookresearch/dinov3, ``notebooks/dinotxt_segmentation_inference.ipynb``.

    Args:
        vlm: the vision and text towers.
        protocol: a protocol that averages probabilities.
        threads: number of computing threads; None uses all processors.
    """

    def __init__(self, vlm: Vlm, protocol: Protocol, *, threads: int | None) -> None:
        import torch

        from ovsdino.dinov3seg.config import ZeroShotProtocol

        torch.set_num_threads(threads or available_threads())
        self._vlm = vlm
        self._how = ZeroShotProtocol(
            short_side=protocol.short_side,
            window=protocol.window,
            stride=protocol.stride,
            templates=protocol.templates,
            patches=protocol.patches,
        )
        self.name = vlm.config.name
        self.engine = f"torch {torch.__version__} eager on the CPU, {torch.get_num_threads()} threads"

    def encode_classes(self, vocabulary: Vocabulary, templates: Sequence[str]) -> Floats:
        """Embed the first word of each class with the templates of the protocol. Shape: (N, D)."""
        import torch

        from ovsdino.dinov3seg.zero_shot import embed_classes

        del templates
        with torch.inference_mode():
            text = embed_classes(self._vlm, [words[0] for words in vocabulary.classes], self._how)
        embeddings: Floats = text.numpy()
        return embeddings

    def label(self, photo: Photo, vocabulary: Vocabulary, text: Floats) -> Segmentation:
        """Label a photo. Shape: photo (H, W, 3), text (N, D) of unit length."""
        import torch
        from PIL import Image

        from ovsdino.dinov3seg.zero_shot import predict, read_photo

        start = time.perf_counter()
        with torch.inference_mode():
            pixels = read_photo(Image.fromarray(photo), self._vlm.config, self._how)  # (3, H', W')
            scores = predict(
                self._vlm, pixels, text=torch.from_numpy(text), protocol=self._how
            )  # (N, H', W')
            labels = best_classes(scores, photo.shape[0], photo.shape[1])
        timings = {"label": round((time.perf_counter() - start) * 1000, 2)}
        return Segmentation(
            photo=photo,
            labels=labels,
            scores=None,
            classes=vocabulary.names,
            background=None,
            model=self.name,
            engine=self.engine,
            timings=timings,
        )


def best_classes(scores: Any, height: int, width: int) -> Labels:  # noqa: ANN401 - torch.Tensor
    """Resize scores to a photo, in portions of classes; return the best class: (N, h, w) -> (H, W)."""
    import torch
    import torch.nn.functional as F

    best = torch.full((height, width), -torch.inf)
    labels = torch.zeros(height, width, dtype=torch.int32)
    for first in range(0, len(scores), CLASSES_AT_ONCE):
        part = scores[None, first : first + CLASSES_AT_ONCE]
        full = F.interpolate(part, (height, width), mode="bilinear", align_corners=False)[0]
        values, winners = full.max(0)
        better = values > best
        best, labels = torch.where(better, values, best), torch.where(better, winners.int() + first, labels)
    return labels.numpy().astype(np.uint16)


def open_zero_shot(
    model: str, checkpoint: Path | None, *, protocol: Protocol, threads: int | None
) -> ZeroShot:
    """Load the towers from the official files.

    Raises:
        EngineError: torch is not installed.
        CheckpointError: a file is missing or invalid.
        ProtocolError: the protocol takes the templates from a bundle, and there is none.
    """
    try:
        from ovsdino.network.checkpoint import CheckpointError
        from ovsdino.zoo.checkpoint import load_vlm
    except ImportError as error:
        raise EngineError(
            f"the torch form needs {error.name}, which is not installed: {install_command('export')}"
        ) from error
    if protocol.templates == "model":
        raise ProtocolError("--templates model: zero-shot dino.txt has no bundle; give a set or a phrase")
    if checkpoint is None:
        raise CheckpointError(
            f"{model}: give the folder with its two official files, or one with both in it "
            "(--checkpoint PATH); `ovsdino models` says where they are"
        )
    return ZeroShot(load_vlm([checkpoint]), protocol, threads=threads)


def hash_checkpoint(checkpoint: Path | None) -> str:
    """Hash the checkpoint files."""
    files = [] if checkpoint is None else [checkpoint]
    if checkpoint is not None and checkpoint.is_dir():
        files = sorted(file for file in checkpoint.iterdir() if file.is_file())
    total = hashlib.sha256()
    for file in files:
        with file.open("rb") as opened:
            while block := opened.read(1 << 20):
                total.update(block)
    return total.hexdigest()
