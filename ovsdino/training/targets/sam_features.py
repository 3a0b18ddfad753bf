"""Outputs of SAM's neck for the training squares, computed on the fly or read from a cache on disk.

SAM's features at a position depend on its surroundings, so a crop of a photo's features differs from the
features of the crop. The cache therefore stores the features of fixed squares, ``DataRecipe.crops`` per
photo, mirrored or not; they equal those computed on the fly. Only colours may still be augmented.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from ovsdino.masks.teachers.sam import MEAN, STD, load_sam
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset, sam_view
from ovsdino.training.distributed import Team
from ovsdino_runtime.base.atomic import write_text
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.progress import open_progress

KEY, FEATURES, DONE, SUMS = "key.json", "features.npy", "done.npy", "sums.npy"
BATCH = 8  # squares encoded at once
GIBI = 1 << 30


class CacheError(OvsdinoError):
    """A cache of SAM's features is missing, incomplete, too large, or belongs to other photos."""


class SamTeacher(nn.Module):
    """SAM's image encoder, frozen.

    Source: OVS-DINO, section 3 (alignment target); that it is the neck's output is our reconstruction.

    Args:
        checkpoint: a SAM checkpoint in the official format; the paper uses ViT-B.

    Shape: views (B, 3, V, V) uint8, V SAM's input side -> (B, 256, V / 16, V / 16) FP16.

    Raises:
        MaskError: the checkpoint is missing or not SAM's; the message holds the command that downloads it.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, checkpoint: Path) -> None:
        super().__init__()
        self.encoder = cast(nn.Module, load_sam(checkpoint).image_encoder).requires_grad_(False)
        self.size = cast(int, self.encoder.img_size)
        self.channels = cast(nn.Conv2d, cast(nn.Sequential, self.encoder.neck)[0]).out_channels
        self.digest = hash_file(checkpoint)
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    @torch.no_grad()
    def forward(self, views: Tensor) -> Tensor:
        """Encode squares; on a GPU in half precision."""
        if views.shape[-1] != self.size:
            raise CacheError(
                f"SAM reads {self.size} px, the recipe's view is {views.shape[-1]} px; make them equal"
            )
        pixels = (views.float() - self.mean) / self.std
        with torch.autocast(views.device.type, torch.float16, enabled=views.device.type == "cuda"):
            return cast(Tensor, self.encoder(pixels)).half()

    def fill(self, batch: Batch) -> Batch:
        """Replace the views of a batch by their features. A batch without views is returned unchanged."""
        return batch if batch.view is None else replace(batch, teacher=self(batch.view), view=None)


class SamCache:
    """Read features that :func:`cache_features` wrote. It can be pickled for other processes.

    Args:
        folder: the cache.

    Shape: ``cache[place]`` -> (256, 64, 64) FP16; place is ``photo * crops + crop``.

    Raises:
        CacheError: the cache is missing, incomplete or damaged; ``cache[place]`` compares a checksum.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        missing = int((_load(folder, DONE) == 0).sum())
        self._sums = np.array(_load(folder, SUMS))
        _load(folder, FEATURES)
        if missing:
            raise CacheError(
                f"{folder}: {missing} squares have no features yet; start the command again to go on"
            )

    def __getitem__(self, place: int) -> Tensor:
        features = np.array(_load(self.folder, FEATURES)[place])
        if zlib.crc32(features.tobytes()) != self._sums[place]:
            raise CacheError(
                f"{self.folder / FEATURES}: square {place} is damaged; delete {self.folder}, it is made again"
            )
        return torch.from_numpy(features)


class _Views(Dataset[tuple[int, Tensor]]):
    """The squares without features yet."""

    def __init__(self, dataset: MaskDataset, places: Sequence[int]) -> None:
        self.dataset, self.places = dataset, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: int) -> tuple[int, Tensor]:
        place = self.places[index]
        number, crop = divmod(place, self.dataset.recipe.crops)
        masks, photo = self.dataset.read(number)
        return place, sam_view(
            photo, self.dataset.square(number, crop, masks=masks), self.dataset.recipe.view
        )


def cache_features(
    dataset: MaskDataset, teacher: SamTeacher, *, folder: Path, team: Team, workers: int = 0
) -> SamCache:
    """Create or complete a cache. All processes of a team share the work.

    Raises:
        CacheError: the folder belongs to other photos, squares or another SAM, or the disk is too small.
    """
    if team.leads:
        create_cache(dataset, teacher, folder)
    team.wait()
    fill_cache(dataset, teacher, folder, rank=team.rank, world=team.size, workers=workers)
    team.wait()
    return SamCache(folder)


def create_cache(dataset: MaskDataset, teacher: SamTeacher, folder: Path) -> None:
    """Create an empty cache if there is none. One process does this before any process fills it.

    Raises:
        CacheError: the folder belongs to other photos, squares or another SAM, or the disk is too small.
    """
    key = cache_key(dataset, teacher)
    if (folder / KEY).exists():
        check_key(folder, key)
    else:
        _create(folder, key, count=len(dataset) * dataset.recipe.crops, shape=_shape(teacher))


def fill_cache(
    dataset: MaskDataset,
    teacher: SamTeacher,
    folder: Path,
    *,
    rank: int = 0,
    world: int = 1,
    workers: int = 0,
) -> None:
    """Encode every fixed square that has no features yet. After a kill, the same call resumes.

    Several processes share the work. Wait for all of them before and after this call.

    Args:
        dataset: photos and squares; its recipe has ``crops``.
        teacher: SAM, on its device.
        folder: the cache, laid out by :func:`create_cache`.
        rank, world: this process among those that share the work.
        workers: processes that load photos.

    Raises:
        CacheError: the folder belongs to another cache.
    """
    check_key(folder, cache_key(dataset, teacher))
    features, done, sums = (_load(folder, name, mode="r+") for name in (FEATURES, DONE, SUMS))
    places = np.flatnonzero(done == 0)
    places = places[places % world == rank].tolist()
    loader = DataLoader(_Views(dataset, places), BATCH, num_workers=workers)
    device = teacher.mean.device
    with open_progress(quiet=rank > 0 or not places) as progress:
        for batch, views in progress.track(loader, description="SAM"):
            encoded = teacher(views.to(device)).cpu().numpy()
            features[batch.numpy()] = encoded
            sums[batch.numpy()] = [zlib.crc32(square.tobytes()) for square in encoded]
            features.flush()  # the features reach the disk before the flag that says so
            sums.flush()
            done[batch.numpy()] = 1
            done.flush()


def cache_key(dataset: MaskDataset, teacher: SamTeacher) -> dict[str, Any]:
    """Return everything that the features depend on."""
    recipe = dataset.recipe
    if not recipe.crops:
        raise CacheError("SAM's features are kept of fixed squares: got crops=0, expected 1 or more")
    sizes = [(image, (dataset.photos / image).stat().st_size) for image in dataset.reader.images]
    names = ["seed", "crop", "crops", "flip", "view"]
    names += ["crop_scale"] if recipe.crop == "resized" else ["size", "largest"]
    policy = {name: getattr(recipe, name) for name in names}
    photos = hashlib.sha256(json.dumps(sizes).encode()).hexdigest()[:24]
    key: dict[str, Any] = json.loads(json.dumps({"sam": teacher.digest, "photos": photos, **policy}))
    return key


def check_key(folder: Path, key: dict[str, Any]) -> None:
    """Reject a cache of other photos, squares or weights.

    Raises:
        CacheError: the cache has another key; the message names the difference.
    """
    try:
        stored = json.loads(_file(folder, KEY).read_text(encoding="utf-8"))
        differing = [name for name in sorted({*stored, *key}) if stored.get(name) != key.get(name)]
    except (ValueError, RecursionError, TypeError) as error:
        raise CacheError(f"{folder / KEY}: damaged ({error}); delete the folder, it is made again") from error
    if differing:
        name = differing[0]
        raise CacheError(
            f"{folder}: features of another {name}: got {stored.get(name)}, expected {key.get(name)}; "
            "give another folder, or delete this one"
        )


def hash_file(path: Path) -> str:
    """Hash a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
    return digest.hexdigest()[:24]


def _shape(teacher: SamTeacher) -> tuple[int, ...]:
    view = torch.zeros(1, 3, teacher.size, teacher.size, dtype=torch.uint8, device=teacher.mean.device)
    return tuple(teacher(view).shape[1:])


def _create(folder: Path, key: dict[str, Any], *, count: int, shape: tuple[int, ...]) -> None:
    """Create the files. The key is written last, so a folder with a key is complete."""
    folder.mkdir(parents=True, exist_ok=True)
    wanted, free = 2 * count * int(np.prod(shape)), shutil.disk_usage(folder).free
    if wanted > free:
        raise CacheError(
            f"{folder}: {count} squares take {wanted / GIBI:.1f} GiB, {free / GIBI:.1f} GiB are free; "
            "use fewer crops, another disk, or no cache"
        )
    layout: list[tuple[str, Any, tuple[int, ...]]] = [
        (FEATURES, np.float16, (count, *shape)),
        (DONE, np.uint8, (count,)),
        (SUMS, np.uint32, (count,)),  # CRC-32 of the bytes of each square's features
    ]
    for name, kind, size in layout:
        made: npt.NDArray[Any] = np.lib.format.open_memmap(
            folder / name, "w+", kind, size
        )  # zeros, not yet on disk
        del made
    write_text(folder / KEY, json.dumps(key, indent=1) + "\n")


def _load(folder: Path, name: str, *, mode: Literal["r", "r+"] = "r") -> np.memmap[Any, np.dtype[Any]]:
    """Map an array of the cache into memory."""
    file = _file(folder, name)
    try:
        return np.lib.format.open_memmap(file, mode)
    except (OSError, ValueError, EOFError) as error:
        raise CacheError(f"{file}: damaged ({error}); delete {folder}, it is made again") from error


def _file(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise CacheError(f"{folder}: no {name} in it; give a folder of SAM's features, or a new one")
    return folder / name
