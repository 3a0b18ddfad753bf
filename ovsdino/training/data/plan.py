"""Which photos a step learns from: a function of the recipe and the number of photos alone."""

from __future__ import annotations

from dataclasses import dataclass

from ovsdino.training.recipe import Phase, Recipe, RecipeError


@dataclass(frozen=True)
class Epoch:
    """One pass over the photos, and its place among the steps of the run."""

    number: int  # from 1
    phase: Phase
    start: int  # steps before it
    steps: int

    @property
    def end(self) -> int:
        """Steps done when it is over."""
        return self.start + self.steps


def plan_epochs(recipe: Recipe, photos: int, processes: int) -> list[Epoch]:
    """Lay out the steps of a run; photos that fill no whole batch at an epoch's end wait for another epoch.

    Raises:
        RecipeError: there are fewer photos than a batch takes, or the processes cannot share a batch equally.
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
            epochs.append(Epoch(len(epochs) + 1, phase, start, steps))
    return epochs


def warm_steps(recipe: Recipe, epochs: list[Epoch]) -> int:
    """Return how many steps the warm-up takes: at least one, where there is any."""
    return max(1, round(recipe.warmup_epochs * epochs[0].steps)) if recipe.warmup_epochs else 0


def micro_batches(epoch: Epoch, done: int, *, rank: int = 0, processes: int = 1) -> list[list[int]]:
    """List the draws of each micro-batch that a process takes, from a step of the epoch on.

    A step's micro-batches are dealt out in turn, so that what a step learns is the same however many
    processes share it.

    Args:
        epoch: the epoch.
        done: steps of it that are done.
        rank, processes: this process, and how many there are.
    """
    size, parts = epoch.phase.micro_batch, epoch.phase.batch // epoch.phase.micro_batch
    firsts = [
        (step * parts + part) * size
        for step in range(done, epoch.steps)
        for part in range(rank, parts, processes)
    ]
    return [list(range(first, first + size)) for first in firsts]
