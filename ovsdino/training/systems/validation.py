"""Validate OVS-DINO on labelled photos: mIoU and Boundary IoU by the paper's protocol."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ovsdino.network.config import window_taper
from ovsdino.network.model import OVSDINO
from ovsdino.training.distributed import Team
from ovsdino_runtime.files.labeled_folder import LabelledPhotos
from ovsdino_runtime.geometry.merge import merge_argmax, merge_geometry
from ovsdino_runtime.geometry.metrics import Counts, Scores, count, scores
from ovsdino_runtime.geometry.preprocess import Preprocessing, cut_windows, fit_size, normalise, resize_photo
from ovsdino_runtime.geometry.types import Photo
from ovsdino_runtime.geometry.windows import plan_windows

Labels = npt.NDArray[np.int32]  # (H, W)
WINDOWS_AT_ONCE = 8


def label_photo(model: OVSDINO, photo: Photo, text: Tensor, *, background: bool) -> Labels:
    """Label each pixel with a class; see `photo_cosines`.

    Shape: (H, W, 3), text (N, D) of unit length -> (H, W), in 0..N-1, or 0..N with a background.
    """
    labels, cosine = photo_cosines(model, photo, text)  # (H, W) each
    if not background:
        return labels
    scale, bias = float(model.head.scale.detach()), float(model.head.bias.detach())
    confidence = 1 / (1 + np.exp(-(scale * cosine + bias)))
    return np.where(confidence < model.config.background, 0, labels + 1).astype(np.int32)


@torch.inference_mode()
def photo_cosines(model: OVSDINO, photo: Photo, text: Tensor) -> tuple[Labels, npt.NDArray[np.float32]]:
    """Return each pixel's best class and its cosine: short side one window, stride half a window.

    Source: OVS-DINO, section 4 (short side 448, stride 224); nano weights its windows, see `window_taper`.

    Shape: (H, W, 3), text (N, D) of unit length -> (H, W), in 0..N-1, and (H, W).
    """
    config = model.config
    size = config.image_size
    limits = Preprocessing(size, max(2048, size), mean=config.mean, std=config.std)
    height, width = fit_size(*photo.shape[:2], short_side=size, long_side=limits.long_side)
    resized = resize_photo(photo, height, width, antialias=False)
    windows = plan_windows(height, width, size=size, stride=size // 2)
    pixels = torch.from_numpy(cut_windows(normalise(resized, limits), windows, size))
    device = next(model.parameters()).device
    starts = range(0, len(windows), WINDOWS_AT_ONCE)
    maps = [model(pixels[i : i + WINDOWS_AT_ONCE].to(device)).float().cpu() for i in starts]
    features = torch.nn.functional.normalize(torch.cat(maps), dim=1).numpy()  # (B, D, h, w)
    grid = (features.shape[2], features.shape[3])
    taper = window_taper(config)
    geometry = merge_geometry(windows, grid, resized=(height, width), photo=photo.shape[:2], taper=taper)
    labels, cosine = merge_argmax(features, text.numpy(), geometry)
    return labels.astype(np.int32), cosine


def validate(model: OVSDINO, labelled: LabelledPhotos, *, text: Tensor, team: Team) -> Scores:
    """Validate a network; the processes share the photos, and all return the result.

    Args:
        model: the network.
        labelled: the photos.
        text: unit vectors of the vocabulary's classes, without the background, (N, D).
        team: this process and the others.

    Raises:
        OvsdinoError: a photo or its labels cannot be read.
    """
    background = labelled.vocabulary.background
    return measure(lambda photo: label_photo(model, photo, text, background=background), labelled, team)


def measure(label: Callable[[Photo], Labels], labelled: LabelledPhotos, team: Team) -> Scores:
    """Compare the predicted labels of each photo with the truth; the processes share the photos."""
    classes = len(labelled.vocabulary.names)
    counted = Counts.zero(classes)
    for index in range(team.rank, len(labelled), team.size):
        photo, truth = labelled.read(index)
        counted += count(truth, label(photo), classes)
    confusion, boundary = (
        team.total(torch.from_numpy(part).to(team.device)).cpu().numpy()
        for part in (counted.confusion, counted.boundary)
    )
    return scores(Counts(confusion, boundary))
