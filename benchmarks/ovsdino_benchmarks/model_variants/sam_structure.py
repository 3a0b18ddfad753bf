"""Table 4's variant: SAM's features replace the output of the network's structure encoder."""

from pathlib import Path
from typing import Any

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.geometry.preprocess import Preprocessing

Tensor = Any  # torch.Tensor; torch is imported when it runs
TorchModule = Any


class SamStructure:
    """The torch network with SAM's features of each window instead of its encoder's.

    Source: OVS-DINO, Table 4, "SAM features at inference". The preprocessing is our reconstruction, as in
    training: the window's S px are resized to SAM's input (1024 px) without padding, and the neck's output is
    resized to the (2h, 2w) grid.

    Args:
        model: the torch network, with or without its own encoder.
        sam: SAM's checkpoint.
        preprocessing: how windows are normalised.

    Shape: pixels (B, 3, S, S) -> features (B, D, h, w).

    Raises:
        EngineError: SAM's features and the network's structure map have different widths.
        OvsdinoError: a checkpoint is missing or invalid.
    """

    def __init__(self, model: TorchModule, sam: Path, preprocessing: Preprocessing) -> None:
        import torch

        try:
            from ovsdino.training.targets.sam_features import SamTeacher

            self.teacher = SamTeacher(sam)
        except ImportError as error:
            raise EngineError(
                f"--sam needs {error.name}, which is not installed: {install_command('train')}"
            ) from error
        self.model = model
        self.mean, self.std = (
            torch.tensor(values)[:, None, None] for values in (preprocessing.mean, preprocessing.std)
        )
        wanted, given = model.config.structure_channels, self.teacher.channels
        if given != wanted:
            raise EngineError(
                f"--sam {sam}: its features have {given} channels, the structure map of {model.config.name} "
                f"has {wanted}; give a model that was trained on SAM's features"
            )

    def __call__(self, pixels: Tensor) -> Tensor:
        """Compute the features."""
        return self.model(pixels, self.structure(pixels))

    def structure(self, pixels: Tensor) -> Tensor:
        """Return SAM's features of windows: (B, 3, S, S) -> (B, 256, 2h, 2w)."""
        import torch
        import torch.nn.functional as F

        from ovsdino.network.config import SAM_GRID_FACTOR

        side = self.teacher.size
        photo = 255 * (pixels * self.std + self.mean)  # (B, 3, S, S)
        views = F.interpolate(photo, (side, side), mode="bilinear", antialias=True)
        views = views.round().clamp(0, 255).to(torch.uint8)  # (B, 3, 1024, 1024)
        features = torch.cat([self.teacher(view[None]) for view in views]).float()  # (B, 256, 64, 64)
        rows, columns = (SAM_GRID_FACTOR * n // self.model.config.patch_size for n in pixels.shape[2:])
        return F.interpolate(features, (rows, columns), mode="bilinear")
