"""Assign photos to steps: a function of the recipe and the number of photos only."""

from __future__ import annotations

from dataclasses import dataclass

from ovsdino.training.recipe import Phase, Recipe, RecipeError


@dataclass(frozen=True)
class Epoch:
    """One pass over the photos, and its position among the steps of the run."""

    number: int  # from 1
    phase: Phase
    start: int  # steps before it
    steps: int

    @property
    def end(self) -> int:
        """Number of steps done at its end."""
        return self.start + self.steps


def plan_epochs(recipe: Recipe, photos: int, processes: int) -> list[Epoch]:
    """Plan the steps of a run; an incomplete batch at the end of an epoch is dropped.

    Raises:
        RecipeError: there are fewer photos than a batch needs, or the processes cannot share a batch equally.
    """
    epochs: list[Epoch] = []
    for phase in recipe.phases:
        if photos < phase.batch:
            raise RecipeError(f"{photos} photos do not fill a batch of {phase.batch}; give a smaller --batch")
        if phase.batch % (phase.micro_batch * processes):
            raise RecipeError(
                f"{processes} processes cannot share a batch of {phase.batch} in micro-batches of "
                f"{phase.micro_batch}; give a --micro-batch so that the one is a multiple of the other two"
            )
        whole = photos // phase.batch
        cut = phase.steps % whole
        for steps in [whole] * (phase.epochs or phase.steps // whole) + [cut] * (cut > 0):
            start = epochs[-1].end if epochs else 0
            epochs.append(Epoch(number=len(epochs) + 1, phase=phase, start=start, steps=steps))
    return epochs


def warm_steps(recipe: Recipe, epochs: list[Epoch]) -> int:
    """Return the number of warm-up steps: at least one if there is a warm-up."""
    return max(1, round(recipe.warmup_epochs * epochs[0].steps)) if recipe.warmup_epochs else 0


def micro_batches(epoch: Epoch, done: int, *, rank: int = 0, processes: int = 1) -> list[list[int]]:
    """List the sample indices of each micro-batch of a process, after the first ``done`` steps of an epoch.

    The micro-batches of a step are distributed in turn, so that a step learns the same for any number of
    processes.

    Args:
        epoch: the epoch.
        done: finished steps of the epoch.
        rank, processes: index of this process, and number of processes.
    """
    size, parts = epoch.phase.micro_batch, epoch.phase.batch // epoch.phase.micro_batch
    firsts = [
        (step * parts + part) * size
        for step in range(done, epoch.steps)
        for part in range(rank, parts, processes)
    ]
    return [list(range(first, first + size)) for first in firsts]
