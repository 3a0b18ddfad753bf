"""What the training loop asks of a system: a network, its loss, what of it learns, how it is validated."""

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
    """OVS-DINO or dinov3.seg with everything that a run reads, opened and checked."""

    @property
    def photos(self) -> int:
        """How many photos have masks."""
        ...

    @property
    def labelled(self) -> LabelledPhotos | None:
        """The photos to validate on."""
        ...

    @property
    def settings(self) -> dict[str, Any]:
        """The recipe and the hashes of what goes in, as a state file keeps them."""
        ...

    def make_model(self) -> Network:
        """Build the network with its first weights.

        Raises:
            CheckpointError: the weights are missing, damaged or of another network.
        """
        ...

    def split(self, model: Any) -> Parts:  # noqa: ANN401 - the system's own network
        """Tell what learns, at which rate, and what does not."""
        ...

    def transformer(self, model: Any) -> nn.Module:  # noqa: ANN401
        """Return the part that a CPU may compute in BF16."""
        ...

    def make_dataset(self, data: DataRecipe) -> MaskDataset:
        """Open photos and masks for one phase."""
        ...

    def fill(self, batch: Batch) -> Batch:
        """Add what a teacher says of a batch, where there is one."""
        ...

    def loss_terms(self, model: Any, batch: Batch, data: DataRecipe) -> dict[str, Tensor]:  # noqa: ANN401
        """Return the loss terms of a batch by the names of `LossWeights`, not weighted."""
        ...

    def validate(self, model: Any) -> Scores:  # noqa: ANN401
        """Measure the network on the labelled photos; all processes ask together."""
        ...
