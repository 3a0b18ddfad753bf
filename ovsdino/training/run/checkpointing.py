"""The state of a training run, from which it resumes: one safetensors file, replaced atomically.

The learning rate and all random numbers are functions of the step, so the file needs no state of a scheduler
or of generators.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from ovsdino.network.checkpoint import CheckpointError, check_values
from ovsdino.training.optimizer import Parts, fingerprint, make_optimizer, prepare, wake
from ovsdino.training.recipe import Recipe, differences
from ovsdino.training.systems.system import Network
from ovsdino_runtime.base.atomic import partial_file

VERSION = 1  # of the state file
STATE = "state.safetensors"
LAST, BEST = "last.safetensors", "best.safetensors"


@dataclass(frozen=True)
class Header:
    """The metadata of the state file, as JSON."""

    step: int  # steps done
    best: float | None  # best validation mIoU so far
    frozen: str  # fingerprint of the weights that do not learn
    settings: dict[str, Any]  # the recipe and the hashes of what went in
    scaler: dict[str, Any]  # of FP16's gradients; empty without
    version: int = VERSION


@dataclass
class Learner:
    """A network in training: weights, optimizer, running average."""

    model: Network
    parts: Parts
    average: Network | None  # running average of the weights, where the recipe asks for one
    optimizer: torch.optim.AdamW
    scaler: torch.amp.GradScaler
    frozen: str  # fingerprint at the start
    step: int = 0
    best: float | None = None

    @property
    def result(self) -> Network:
        """The weights that are validated and published."""
        return self.model if self.average is None else self.average


def begin(
    model: Network, recipe: Recipe, *, device: torch.device, split: Callable[[Any], Parts] = prepare
) -> Learner:
    """Prepare a network for training. ``split`` freezes parameters and returns the trained ones."""
    model = model.to(device)
    parts = split(model)
    wake(model)
    return Learner(
        model=model,
        parts=parts,
        average=copy.deepcopy(model).eval().requires_grad_(False) if recipe.average else None,
        optimizer=make_optimizer(parts, recipe),
        scaler=torch.amp.GradScaler(
            device.type, enabled=recipe.precision == "fp16" and device.type == "cuda"
        ),
        frozen=fingerprint(parts.frozen),
    )


def save_state(learner: Learner, settings: dict[str, Any], folder: Path) -> None:
    """Write the state atomically: after a kill there is the old file or the new one."""
    tensors = {f"model.{name}": value for name, value in learner.model.state_dict().items()}
    if learner.average is not None:
        tensors |= {f"average.{name}": value for name, value in learner.average.state_dict().items()}
    for name, parameter in _learning(learner.parts):
        kept = learner.optimizer.state.get(parameter, {})
        tensors |= {f"optimizer.{key}.{name}": value for key, value in kept.items()}
    header = Header(
        step=learner.step,
        best=learner.best,
        frozen=learner.frozen,
        settings=settings,
        scaler=learner.scaler.state_dict(),
    )
    contiguous = {name: value.detach().contiguous() for name, value in tensors.items()}
    with partial_file(folder / STATE) as partial:
        save_file(contiguous, partial, metadata={"state": json.dumps(asdict(header))})


def read_header(folder: Path) -> Header | None:
    """Read the progress of a run; None if there is no state file.

    Raises:
        CheckpointError: the file is damaged, or of another version.
    """
    path = folder / STATE
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = Header(**json.loads((file.metadata() or {})["state"]))
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError, TypeError) as error:
        raise CheckpointError(
            f"{path}: not a readable state of a training ({error}); move it away to begin again"
        ) from error
    if header.version != VERSION:
        raise CheckpointError(
            f"{path}: state of version {header.version}, expected {VERSION}; train it to its "
            "end with the ovsdino that began it, or take another --out"
        )
    return header


def check_same(header: Header, settings: dict[str, Any], folder: Path) -> None:
    """Check that a run resumes with the same settings.

    Raises:
        CheckpointError: settings differ; the message names them with both values.
    """
    changed = differences(header.settings, settings)
    if changed:
        raise CheckpointError(
            f"{folder} holds a run with other settings: {'; '.join(changed)}; "
            "give the same ones to go on with it, or another --out"
        )


def restore(learner: Learner, header: Header, folder: Path) -> None:
    """Restore a learner from the state file.

    Raises:
        CheckpointError: the file does not fit this network, or holds values that are not finite.
    """
    device = next(learner.model.parameters()).device
    path = folder / STATE
    tensors = load_file(path, device=str(device))
    check_values(tensors, path)
    _load(learner.model, _below("model.", tensors), path)
    if learner.average is not None:
        _load(learner.average, _below("average.", tensors), path)
    kept: dict[int, dict[str, Tensor]] = {}
    for number, (name, _) in enumerate(_learning(learner.parts)):
        state = {key: tensors.get(f"optimizer.{key}.{name}") for key in ("step", "exp_avg", "exp_avg_sq")}
        kept[number] = {key: value for key, value in state.items() if value is not None}
    groups = learner.optimizer.state_dict()["param_groups"]
    learner.optimizer.load_state_dict({"state": {n: s for n, s in kept.items() if s}, "param_groups": groups})
    learner.scaler.load_state_dict(header.scaler)
    learner.step, learner.best, learner.frozen = header.step, header.best, header.frozen
    check_frozen(learner)


def check_frozen(learner: Learner) -> None:
    """Check that training has not changed frozen weights.

    Raises:
        CheckpointError: a frozen weight has changed by a bit or more.
    """
    if fingerprint(learner.parts.frozen) != learner.frozen:
        raise CheckpointError(
            f"step {learner.step}: frozen weights of {learner.model.config.name} have changed"
        )


def _learning(parts: Parts) -> list[tuple[str, torch.nn.Parameter]]:
    """List the trained parameters in the optimizer's order."""
    return [*parts.tuned.items(), *parts.new.items()]


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}


def _load(model: Network, tensors: dict[str, Tensor], path: Path) -> None:
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(f"{path}: not a state of {model.config.name}") from error
