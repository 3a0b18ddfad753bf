"""What goes into a run: checked before anything is computed, and hashed so that a resumed run can tell."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ovsdino.checkpoint import CheckpointError, load_backbone, read_model
from ovsdino.masks.shards import MaskReader
from ovsdino.model import OVSDINO
from ovsdino.training.batch import Batch
from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.dataset import MaskDataset, training_words
from ovsdino.training.distributed import Team
from ovsdino.training.recipe import Recipe, RecipeError
from ovsdino.training.sam_features import hash_file
from ovsdino.training.validation import Labelled, open_labelled
from ovsdino.training.word_bank import WordBank, build_word_bank, load_prompter

if TYPE_CHECKING:
    from ovsdino.training.sam_features import SamTeacher


@dataclass(frozen=True)
class Job:
    """What is asked of a run."""

    recipe: Recipe
    photos: Path
    masks: Path  # a folder that `ovsdino pseudo-masks` made
    out: Path  # gets the weights, the state and the logs
    init: Path | None = None  # a public backbone's weights, or a network's that this package saved
    text: Path | None = None  # the text tower's weights; None takes nano's packaged ones
    sam: Path | None = None  # SAM's weights, where the recipe aligns with them
    sam_cache: Path | None = None  # keeps SAM's features of fixed squares
    validate: Path | None = None  # labelled photos
    workers: int = 2  # processes that load photos, for each training process
    device: str = "auto"
    save_every: float = 120.0  # [s]


@dataclass(frozen=True)
class Inputs:
    """What a run reads, opened."""

    job: Job
    team: Team
    photos: int  # how many have masks
    bank: WordBank
    labelled: Labelled | None
    teacher: SamTeacher | None
    settings: dict[str, Any]  # the recipe and the hashes of what goes in, as a state file keeps them

    def make_model(self) -> OVSDINO:
        """Build the network with its first weights.

        Raises:
            CheckpointError: the weights are missing, damaged or of another network.
        """
        torch.manual_seed(self.job.recipe.seed)
        config = self.job.recipe.model
        if self.job.init is not None and _is_network(self.job.init):
            return read_model(config, self.job.init)
        model = OVSDINO(config)
        if self.job.init is not None:
            load_backbone(model.backbone, self.job.init)
        return model

    def make_dataset(self, data: DataRecipe) -> MaskDataset:
        """Open photos and masks for one phase, with SAM's features from disk where they are kept."""
        job = self.job
        dataset = MaskDataset(job.masks, job.photos, self.bank, data, job.recipe.model)
        if self.teacher is not None and job.sam_cache is not None:
            from ovsdino.training.sam_features import cache_features

            dataset.teacher = cache_features(
                dataset, self.teacher, job.sam_cache, self.team, workers=job.workers
            )
        return dataset

    def fill(self, batch: Batch) -> Batch:
        """Let SAM encode a batch, where the recipe aligns with SAM."""
        return batch if self.teacher is None else self.teacher.fill(batch)

    def class_text(self) -> Tensor:
        """Return the embeddings of the classes of validation: the mean over each one's words, (N, D)."""
        if self.labelled is None:
            raise ValueError("there is nothing to validate on")
        means = [self.bank(words).mean(0) for words in self.labelled.vocabulary.classes]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def open_inputs(job: Job, team: Team) -> Inputs:
    """Open and check everything that a run reads; the leader embeds the words first, the others read them.

    Raises:
        OvsdinoError: something is missing, damaged or does not belong together.
    """
    recipe = job.recipe
    if not job.photos.is_dir():
        raise RecipeError(
            f"--photos {job.photos}: no such folder; give the one that the masks were made from"
        )
    if job.init is not None and not job.init.is_file():
        raise CheckpointError(
            f"--init {job.init}: no such file; give the backbone's weights ({recipe.model.backbone})"
        )
    reader = MaskReader(job.masks)
    labelled = None if job.validate is None else open_labelled(job.validate)
    teacher = _open_teacher(job, team) if recipe.needs_teacher else None
    words = {
        *training_words(job.masks),
        *(w for c in (labelled.vocabulary.classes if labelled else ()) for w in c),
    }
    prompter = load_prompter(recipe.model, job.text)
    cache = job.out / "words"
    if team.leads:
        build_word_bank(words, prompter, cache)
    team.wait()
    settings = {
        "recipe": recipe.to_dict(),
        "masks": _hash_listing(reader),
        "init": "none" if job.init is None else hash_file(job.init),
        "text tower": prompter.digest,
        "sam": "none" if teacher is None else teacher.digest,
    }
    return Inputs(
        job, team, len(reader), build_word_bank(words, prompter, cache), labelled, teacher, settings
    )


def _open_teacher(job: Job, team: Team) -> SamTeacher:
    if job.sam is None:
        raise RecipeError(
            f"{job.recipe.name} aligns with SAM ViT-B: give its weights with --sam FILE, "
            "or leave it out with --variant no-sam"
        )
    from ovsdino.training.sam_features import SamTeacher

    return SamTeacher(job.sam).to(team.device)


def _is_network(path: Path) -> bool:
    """Tell a network that this package saved from a bare backbone."""
    try:
        with safe_open(path, framework="pt") as file:
            return "config" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _hash_listing(reader: MaskReader) -> str:
    """Hash which photos have masks and how the masks were made."""
    return hashlib.sha256(repr((reader.info, reader.images)).encode()).hexdigest()[:16]
