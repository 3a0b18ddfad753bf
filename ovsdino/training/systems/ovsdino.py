"""The system OVS-DINO: its training job and inputs, checked and hashed before training starts."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ovsdino.masks.store.shards import MaskReader
from ovsdino.network.checkpoint import CheckpointError, load_backbone, read_model
from ovsdino.network.config import ModelConfig
from ovsdino.network.model import OVSDINO
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset, training_words
from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.distributed import Team
from ovsdino.training.optimizer import Parts, prepare
from ovsdino.training.recipe import Recipe, RecipeError
from ovsdino.training.systems.ovsdino_losses import loss_terms
from ovsdino.training.systems.validation import validate
from ovsdino.training.targets.sam_features import hash_file
from ovsdino.training.targets.word_bank import Prompter, WordBank, build_word_bank, load_prompter
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.files.labeled_folder import LabelledPhotos, open_labelled
from ovsdino_runtime.geometry.metrics import Scores

if TYPE_CHECKING:
    from ovsdino.training.targets.hed_features import HedTeacher
    from ovsdino.training.targets.sam_features import SamTeacher


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """A training job: recipe, data, output folder and initial weights. Pass it to `train`."""

    recipe: Recipe
    photos: Path
    masks: Path  # a folder that `ovsdino pseudo-masks` made
    out: Path  # output folder of weights, state and logs
    init: Path | None = None  # initial weights: a public backbone, or a network that this package saved
    text: Path | None = None  # weights of the text tower; None uses nano's packaged weights
    sam: Path | None = None  # SAM's weights, if the recipe aligns with SAM or the network contains SAM
    hed: Path | None = None  # HED's weights, if the recipe aligns with HED
    anyup: Path | None = None  # AnyUp's weights, for dinov3.seg's early refinement
    sam_cache: Path | None = None  # folder in which SAM's features of fixed squares are cached
    validate: Path | None = None  # labelled photos; None does not validate
    workers: int = 2  # processes that load photos, per training process
    device: str = "auto"  # "cpu", "cuda", or "auto" for CUDA if there is a GPU
    save_every: float = 120.0  # [s] interval at which the state is saved


@dataclass(frozen=True)
class OvsdinoInputs:
    """OVS-DINO with its opened inputs: a :class:`ovsdino.training.systems.system.System`."""

    job: TrainingJob
    team: Team
    config: ModelConfig
    photos: int  # how many have masks
    words: frozenset[str]  # that training and validation need
    prompter: Prompter
    labelled: LabelledPhotos | None
    teacher: SamTeacher | HedTeacher | None
    settings: dict[str, Any]  # the recipe and the hashes of what goes in, as a state file keeps them

    @cached_property
    def bank(self) -> WordBank:
        """The embeddings of the words. All processes must call this: the leader computes, others read."""
        cache = self.job.out / "words"
        if self.team.leads:
            build_word_bank(self.words, self.prompter, cache)
        self.team.wait()
        return build_word_bank(self.words, self.prompter, cache)

    def make_model(self) -> OVSDINO:
        """Build the network with its initial weights.

        Raises:
            CheckpointError: the weights are missing, damaged or of another network.
        """
        torch.manual_seed(self.job.recipe.seed)
        config = self.config
        if self.job.init is not None and is_network(self.job.init):
            return read_model(config, self.job.init)
        model = OVSDINO(config)
        if self.job.init is not None:
            load_backbone(model.backbone, self.job.init)
        return model

    def make_dataset(self, data: DataRecipe) -> MaskDataset:
        """Open photos and masks for one phase, with cached SAM features if there is a cache."""
        job = self.job
        dataset = MaskDataset(job.masks, job.photos, text=self.bank, recipe=data, config=self.config)
        if self.teacher is not None and job.sam_cache is not None:
            from ovsdino.training.targets.sam_features import SamTeacher, cache_features

            sam = cast(SamTeacher, self.teacher)  # `_open_hed` refuses a cache
            dataset.teacher = cache_features(
                dataset, sam, folder=job.sam_cache, team=self.team, workers=job.workers
            )
        return dataset

    def fill(self, batch: Batch) -> Batch:
        """Add features of SAM or HED to a batch if the recipe aligns with them."""
        return batch if self.teacher is None else self.teacher.fill(batch)

    def split(self, model: OVSDINO) -> Parts:
        """Freeze parameters that are not trained; return the others by learning rate."""
        return prepare(model)

    def transformer(self, model: OVSDINO) -> nn.Module:
        """Return the backbone."""
        return model.backbone

    def loss_terms(self, model: OVSDINO, batch: Batch, data: DataRecipe) -> dict[str, Tensor]:
        """Return the unweighted loss terms of a batch."""
        return loss_terms(model, batch, data)

    def validate(self, model: OVSDINO) -> Scores:
        """Validate the network on the labelled photos."""
        if self.labelled is None:
            raise ValueError("there is nothing to validate on")
        return validate(model, self.labelled, text=self.class_text(), team=self.team)

    def class_text(self) -> Tensor:
        """Return the embeddings of the validation classes, averaged over the words of each: (N, D)."""
        if self.labelled is None:
            raise ValueError("there is nothing to validate on")
        means = [self.bank(words).mean(0) for words in self.labelled.vocabulary.classes]
        return torch.nn.functional.normalize(torch.stack(means), dim=-1)


def open_inputs(job: TrainingJob, team: Team) -> OvsdinoInputs:
    """Open and check everything that a run reads; write nothing.

    Raises:
        OvsdinoError: an input is missing, damaged, or does not match the others.
    """
    recipe = job.recipe
    if not isinstance(recipe.model, ModelConfig):
        raise TypeError(f"{recipe.model.name} is not an OVS-DINO")
    check_files(job, recipe.model.backbone)
    reader = MaskReader(job.masks)
    labelled = None if job.validate is None else open_labelled(job.validate)
    teacher = _open_teacher(job, team)
    words = {
        *training_words(job.masks),
        *(w for c in (labelled.vocabulary.classes if labelled else ()) for w in c),
    }
    prompter = load_prompter(recipe.model, job.text, templates=recipe.word_templates)
    settings = {
        "recipe": recipe.to_dict(),
        "masks": hash_listing(reader),
        "init": "none" if job.init is None else hash_file(job.init),
        "text tower": prompter.digest,
        "sam": teacher.digest if recipe.needs_teacher and teacher else "none",
    }
    if recipe.needs_hed and teacher:
        settings["hed"] = teacher.digest
    return OvsdinoInputs(
        job=job,
        team=team,
        config=recipe.model,
        photos=len(reader),
        words=frozenset(words),
        prompter=prompter,
        labelled=labelled,
        teacher=teacher,
        settings=settings,
    )


def check_files(job: TrainingJob, backbone: str) -> None:
    """Check that the photos and the initial weights exist.

    Raises:
        RecipeError, CheckpointError: a file or folder is missing.
    """
    if not job.photos.is_dir():
        raise RecipeError(
            f"--photos {job.photos}: no such folder; give the one that the masks were made from"
        )
    if job.init is not None and not job.init.is_file():
        raise CheckpointError(f"--init {job.init}: no such file; give the backbone's weights ({backbone})")


def _open_teacher(job: TrainingJob, team: Team) -> SamTeacher | HedTeacher | None:
    if job.recipe.needs_hed:
        return _open_hed(job, team)
    if not job.recipe.needs_teacher:
        return None
    if job.sam is None:
        raise RecipeError(
            f"{job.recipe.name} aligns with SAM ViT-B: give its weights with --sam FILE, "
            "or leave it out with --variant no-sam"
        )
    from ovsdino.training.targets.sam_features import SamTeacher

    return SamTeacher(job.sam).to(team.device)


def _open_hed(job: TrainingJob, team: Team) -> HedTeacher:
    if job.hed is None:
        raise RecipeError("--structure hed: give HED's weights with --hed FILE")
    if job.sam_cache is not None:
        raise RecipeError("--structure hed: --sam-cache keeps SAM's features alone; leave it out")
    from ovsdino.training.targets.hed_features import HedTeacher

    config = cast(ModelConfig, job.recipe.model)
    half = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(job.recipe.precision)
    return HedTeacher(job.hed, config, half).to(team.device)


def is_network(path: Path) -> bool:
    """Tell whether a file is a network that this package saved, not a bare backbone."""
    try:
        with safe_open(regular_file(path), framework="pt") as file:
            return "config" in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def hash_listing(reader: MaskReader) -> str:
    """Hash the list of photos with masks, and how the masks were made."""
    return hashlib.sha256(repr((reader.info, reader.images)).encode()).hexdigest()[:16]
