"""The training loop: epochs of steps, validation after each epoch, and a state to resume from."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch

from ovsdino.network.checkpoint import save_model
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.loader import Loader
from ovsdino.training.data.plan import Epoch, plan_epochs, warm_steps
from ovsdino.training.distributed import Team, join_team
from ovsdino.training.optimizer import rate_factor, wake
from ovsdino.training.run.checkpointing import (
    BEST,
    LAST,
    Header,
    Learner,
    begin,
    check_frozen,
    check_same,
    read_header,
    restore,
    save_state,
)
from ovsdino.training.run.log import Log, open_log
from ovsdino.training.run.step import Stepper, use_precision
from ovsdino.training.systems.choose import open_system
from ovsdino.training.systems.ovsdino import TrainingJob
from ovsdino.training.systems.system import System


@dataclass
class TrainingRun:
    """A run in progress."""

    job: TrainingJob
    team: Team
    system: System
    learner: Learner
    log: Log
    epochs: list[Epoch]
    saved: float  # when the state was saved last [s]

    @property
    def total(self) -> int:
        """Number of all steps."""
        return self.epochs[-1].end


def train(job: TrainingJob) -> Path:
    """Train a network, or resume a run.

    On a CPU, the same job gives the same weights, however often it is stopped and resumed.

    Example:
        >>> from pathlib import Path
        >>> from ovsdino.training.recipe import RECIPES
        >>> from ovsdino.training.systems.ovsdino import TrainingJob
        >>> job = TrainingJob(
        ...     recipe=RECIPES["nano"], photos=Path("photos"), masks=Path("masks"), out=Path("run"),
        ...     init=Path("weights.safetensors"),
        ... )
        >>> weights = train(job)

    Args:
        job: recipe, data and output folder.

    Returns:
        The file of the final weights, which `ovsdino-export --checkpoint` takes.

    Raises:
        OvsdinoError: an error that the user can fix. Existing files stay as they are.
    """
    with join_team(job.device) as team:
        header = read_header(job.out)
        system = open_system(job, team)
        if header is not None:
            check_same(header, system.settings, job.out)
        epochs = plan_epochs(job.recipe, system.photos, team.size)
        done = 0 if header is None else header.step
        total = epochs[-1].end
        if done < total:
            learner = ready(job, system, header=header, team=team)
            if team.leads:
                job.out.mkdir(parents=True, exist_ok=True)
            team.wait()
            with open_log(job.out if team.leads else None, step=done, total=total) as log:
                run_epochs(
                    TrainingRun(
                        job=job,
                        team=team,
                        system=system,
                        learner=learner,
                        log=log,
                        epochs=epochs,
                        saved=time.monotonic(),
                    )
                )
    return job.out / LAST


def ready(job: TrainingJob, system: System, *, header: Header | None, team: Team) -> Learner:
    """Prepare the network for training, from its initial weights or from the state file."""
    learner = begin(system.make_model(), job.recipe, device=team.device, split=system.split)
    if header is not None:
        restore(learner, header, job.out)
    use_precision(system.transformer(learner.model), job.recipe.precision, team.device)
    return learner


def run_epochs(run: TrainingRun) -> None:
    """Train the remaining steps of each epoch, and finish it."""
    loader = stepper = None
    for number, epoch in enumerate(run.epochs):
        if run.learner.step >= epoch.end:
            continue
        if stepper is None or loader is None or run.epochs[number - 1].phase != epoch.phase:
            recipe = run.job.recipe.data_of(epoch.phase)
            loader = Loader(run.system.make_dataset(recipe), run.job.workers, run.team)
            stepper = Stepper(
                run.learner, run.job.recipe, data=recipe, team=run.team, loss=run.system.loss_terms
            )
        run_steps(run, epoch, loader=loader, stepper=stepper)
        finish_epoch(run, epoch)


def run_steps(run: TrainingRun, epoch: Epoch, *, loader: Loader, stepper: Stepper) -> None:
    """Train the remaining steps of an epoch."""
    learner, team = run.learner, run.team
    batches = loader.load(epoch, learner.step - epoch.start)
    count = epoch.phase.batch // epoch.phase.micro_batch // team.size
    warm = warm_steps(run.job.recipe, run.epochs)
    while learner.step < epoch.end:
        started = time.perf_counter()
        waiting = Stopwatch(batches)
        factor = rate_factor(learner.step, warm=warm, total=run.total)
        ready_batches = (
            run.system.fill(batch.to(team.device, non_blocking=True)) for batch in islice(waiting, count)
        )
        figures = stepper(ready_batches, count, factor)
        seconds = time.perf_counter() - started
        run.log.step(
            learner.step, figures | {"size": epoch.phase.size}, seconds=seconds, waited=waiting.seconds
        )
        if learner.step < epoch.end and time.monotonic() - run.saved >= run.job.save_every:
            save(run)


class Stopwatch:
    """Iterate over batches, and measure the time spent waiting for them."""

    def __init__(self, batches: Iterator[Batch]) -> None:
        self.batches = batches
        self.seconds = 0.0

    def __iter__(self) -> Stopwatch:
        return self

    def __next__(self) -> Batch:
        started = time.perf_counter()
        batch = next(self.batches)
        self.seconds += time.perf_counter() - started
        return batch


def finish_epoch(run: TrainingRun, epoch: Epoch) -> None:
    """Validate, publish the weights and save the state."""
    learner = run.learner
    check_frozen(learner)
    figures: dict[str, float] = {}
    better = False
    if run.system.labelled is not None:
        result = learner.result.eval()
        scores = run.system.validate(result)
        wake(learner.model)
        figures = {"mIoU": 100 * scores.miou, "Boundary IoU": 100 * scores.boundary_miou}
        better = learner.best is None or figures["mIoU"] > learner.best
        learner.best = figures["mIoU"] if better else learner.best
    if run.team.leads:
        dtype = getattr(torch, run.job.recipe.weights_dtype)
        if better:
            save_model(learner.result, run.job.out / BEST, dtype=dtype)
        save_model(learner.result, run.job.out / LAST, dtype=dtype)
    run.log.epoch(learner.step, epoch.number, figures)
    save(run)


def save(run: TrainingRun) -> None:
    """Write the state, from one process."""
    if run.team.leads:
        save_state(run.learner, run.system.settings, run.job.out)
    run.saved = time.monotonic()
