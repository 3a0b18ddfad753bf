"""The interface between the training loop and a system: network, losses, trained parameters, validation."""

from __future__ import annotations

from typing import Any, Protocol

from torch import Tensor, nn

from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.network.model import OVSDINO
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset
from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.optimizer import Parts
from ovsdino_runtime.files.labeled_folder import LabelledPhotos
from ovsdino_runtime.geometry.metrics import Scores

Network = OVSDINO | Dinov3Seg


class System(Protocol):
    """OVS-DINO or dinov3.seg with its inputs, opened and checked."""

    @property
    def photos(self) -> int:
        """Number of photos with masks."""
        ...

    @property
    def labelled(self) -> LabelledPhotos | None:
        """The labelled photos for validation."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe and the hashes of the inputs, as stored in the state file."""
        ...

    def make_model(self) -> Network:
        """Build the network with its initial weights.

        Raises:
            CheckpointError: the weights are missing, damaged or of another network.
        """
        ...

    def split(self, model: Any) -> Parts:  # noqa: ANN401 - the system's own network
        """Freeze parameters that are not trained; return the others by learning rate."""
        ...

    def transformer(self, model: Any) -> nn.Module:  # noqa: ANN401
        """Return the part that a CPU may compute in BF16."""
        ...

    def make_dataset(self, data: DataRecipe) -> MaskDataset:
        """Open photos and masks for one phase."""
        ...

    def fill(self, batch: Batch) -> Batch:
        """Add the teacher's features to a batch, if there is a teacher."""
        ...

    def loss_terms(self, model: Any, batch: Batch, data: DataRecipe) -> dict[str, Tensor]:  # noqa: ANN401
        """Return the unweighted loss terms of a batch, by the names of `LossWeights`."""
        ...

    def validate(self, model: Any) -> Scores:  # noqa: ANN401
        """Validate the network on the labelled photos; all processes must call this."""
        ...
