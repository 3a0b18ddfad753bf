"""Choose the system that a recipe trains."""

from __future__ import annotations

from ovsdino.network.config import ModelConfig
from ovsdino.training.distributed import Team
from ovsdino.training.systems.ovsdino import TrainingJob, open_inputs
from ovsdino.training.systems.system import System


def open_system(job: TrainingJob, team: Team) -> System:
    """Open and check everything that a run reads; write nothing.

    Raises:
        OvsdinoError: an input is missing, damaged, or does not match the others.
    """
    if isinstance(job.recipe.model, ModelConfig):
        return open_inputs(job, team)
    from ovsdino.training.systems.dinov3seg import (
        open_dinov3seg_inputs,  # needs more libraries than OVS-DINO does
    )

    return open_dinov3seg_inputs(job, team)
