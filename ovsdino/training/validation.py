"""mIoU and Boundary IoU of the network as it is, on labelled photos, by the paper's protocol."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ovsdino.model import OVSDINO
from ovsdino.training.distributed import Team
from ovsdino_runtime.errors import OvsdinoError
from ovsdino_runtime.merge import merge_argmax, merge_geometry
from ovsdino_runtime.metrics import IGNORED, Counts, Scores, Truth, count, scores
from ovsdino_runtime.photo import load_photo
from ovsdino_runtime.preprocess import Photo, Preprocessing, cut_windows, fit_size, normalise, resize_photo
from ovsdino_runtime.vocabulary import BACKGROUND, Vocabulary, parse_classes
from ovsdino_runtime.windows import plan_windows

UNLABELLED = 255  # value of the label files that means nothing
WINDOWS_AT_ONCE = 8


class ValidationError(OvsdinoError):
    """The folder of labelled photos is not laid out as expected, or a label means nothing."""


@dataclass(frozen=True)
class Labelled:
    """Photos with their labels, in the layout of one's own folder that `ovsdino evaluate` reads."""

    samples: tuple[tuple[Path, Path], ...]  # photo, labels
    vocabulary: Vocabulary


def open_labelled(folder: Path) -> Labelled:
    """Find labelled photos.

    Args:
        folder: holds ``images/``, ``labels/`` with an indexed or grey PNG for each photo (255 means nothing),
            and ``names.txt`` with one class a line; where the first is ``background``, label 0 is what no
            word fits.

    Raises:
        ValidationError: what is missing.
    """
    names = folder / "names.txt"
    for path in (folder, folder / "images", folder / "labels", names):
        if not path.exists():
            raise ValidationError(
                f"--validate: {path} is not there; expected images/, labels/*.png and names.txt, "
                "which has one class a line"
            )
    classes = parse_classes(f"@{names}").classes
    background = classes[0] == (BACKGROUND,)
    photos = {path.stem: path for path in sorted((folder / "images").iterdir())}
    labels = sorted((folder / "labels").glob("*.png"))
    if missing := [path for path in labels if path.stem not in photos]:
        raise ValidationError(f"--validate: {missing[0]} has no photo in {folder / 'images'}")
    if not labels:
        raise ValidationError(f"--validate: no *.png in {folder / 'labels'}")
    pairs = tuple((photos[path.stem], path) for path in labels)
    return Labelled(pairs, Vocabulary(classes[background:], background=background, name=folder.name))


def read_truth(path: Path, classes: int) -> Truth:
    """Read a label file: (H, W), a class or IGNORED.

    Raises:
        ValidationError: it is broken, of another kind, or has a value beyond the classes.
    """
    try:
        with Image.open(path) as image:
            raw = np.asarray(image)
    except (OSError, SyntaxError, ValueError) as error:
        raise ValidationError(f"{path}: broken label file ({error})") from error
    if raw.ndim != 2:
        raise ValidationError(f"{path}: expected an indexed or grey PNG, got shape {raw.shape}")
    truth = np.where(raw == UNLABELLED, IGNORED, raw.astype(np.int32)).astype(np.int32)
    if truth.max() >= classes:
        raise ValidationError(f"{path}: label {truth.max()}, but names.txt has {classes} classes")
    return truth


@torch.inference_mode()
def label_photo(model: OVSDINO, photo: Photo, text: Tensor, *, background: bool) -> npt.NDArray[np.int32]:
    """Give each pixel a class: short side one window, windows half a window apart, cosines averaged.

    Source: OVS-DINO, section 4 (short side 448, stride 224).

    Shape: (H, W, 3), text (N, D) of unit length -> (H, W), in 0..N-1, or 0..N with a background.
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
    geometry = merge_geometry(windows, grid, resized=(height, width), photo=photo.shape[:2])
    labels, cosine = merge_argmax(features, text.numpy(), geometry)  # (H, W) each
    if not background:
        return labels.astype(np.int32)
    scale, bias = float(model.head.scale), float(model.head.bias)
    confidence = 1 / (1 + np.exp(-(scale * cosine + bias)))
    return np.where(confidence < config.background, 0, labels + 1).astype(np.int32)


def validate(model: OVSDINO, labelled: Labelled, text: Tensor, team: Team) -> Scores:
    """Measure a network; each process takes its share of the photos, and all learn the result.

    Args:
        model: the network.
        labelled: the photos.
        text: unit vectors of the vocabulary's classes, without the background, (N, D).
        team: this process and the others.

    Raises:
        ValidationError: a photo and its labels differ in size, or a label means nothing.
    """
    classes = len(labelled.vocabulary.names)
    counted = Counts.zero(classes)
    for photo_path, labels_path in labelled.samples[team.rank :: team.size]:
        photo, truth = load_photo(photo_path), read_truth(labels_path, classes)
        if truth.shape != photo.shape[:2]:
            raise ValidationError(f"{labels_path} is {truth.shape} px, its photo {photo.shape[:2]} px")
        labels = label_photo(model, photo, text, background=labelled.vocabulary.background)
        counted += count(truth, labels, classes)
    confusion, boundary = (
        team.total(torch.from_numpy(part).to(team.device)).cpu().numpy()
        for part in (counted.confusion, counted.boundary)
    )
    return scores(Counts(confusion, boundary))
