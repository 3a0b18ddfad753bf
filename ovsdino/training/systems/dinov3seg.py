"""The system dinov3.seg: its network and the inputs of its training."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ovsdino.dinov3seg.checkpoint import PublicWeights, load_public, read_model
from ovsdino.dinov3seg.class_embeddings import embed_classes
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino.dinov3seg.tokenizer import tokenize
from ovsdino.masks.store.shards import MaskReader
from ovsdino.network.checkpoint import CheckpointError
from ovsdino.training.data.batch import Batch
from ovsdino.training.data.dataset import MaskDataset, training_words
from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.distributed import Team
from ovsdino.training.optimizer import Parts, split_dinov3seg_parameters
from ovsdino.training.systems.dinov3seg_losses import dinov3seg_loss_terms
from ovsdino.training.systems.dinov3seg_validation import label_view
from ovsdino.training.systems.ovsdino import TrainingJob, check_files, hash_listing, is_network
from ovsdino.training.systems.validation import measure
from ovsdino.training.targets.sam_features import hash_file
from ovsdino_runtime.files.labeled_folder import LabelledPhotos, open_labelled
from ovsdino_runtime.geometry.metrics import Scores

# What each file of first weights is, by the option that takes it.
DINOTXT_FILES = {
    "init": "DINOv3 ViT-L/16 (dinov3_vitl16_pretrain_lvd1689m)",
    "text": "dino.txt's vision head and text encoder (dinov3_vitl16_dinotxt_vision_head_and_text_encoder)",
}
CLIP_FILES = {"init": "OpenAI's CLIP ViT-L/14 at 336 px, both towers in one file"}
SAM_FILE = {"sam": "SAM ViT-L (sam_vit_l_0b3195.pth)"}
ANYUP_FILE = {"anyup": "AnyUp (anyup_multi_backbone), or leave it out"}


class TokenBank:
    """Token ids of words, each inserted into the prompt.

    Args:
        words: the words.
        config: holds the prompt and the tokenizer.
    """

    def __init__(self, words: Iterable[str], config: Dinov3segConfig) -> None:
        self.place = {word: index for index, word in enumerate(dict.fromkeys(words))}
        self.ids = tokenize([config.templates[0].format(word) for word in self.place], config.vlm)  # (N, T)

    def __call__(self, words: Iterable[str]) -> Tensor:
        """Return the token ids of words: (N, T)."""
        return self.ids[[self.place[word] for word in words]]


@dataclass(frozen=True)
class Dinov3segInputs:
    """dinov3.seg with its opened inputs: a :class:`ovsdino.training.systems.system.System`."""

    job: TrainingJob
    team: Team
    config: Dinov3segConfig
    photos: int  # how many have masks
    bank: TokenBank
    labelled: LabelledPhotos | None
    settings: dict[str, Any]  # the recipe and the hashes of what goes in, as a state file keeps them

    def make_model(self) -> Dinov3Seg:
        """Build the network with its initial weights.

        Raises:
            CheckpointError: the weights are missing, damaged or of another network.
        """
        torch.manual_seed(self.job.recipe.seed)
        if self.job.init is not None and is_network(self.job.init):
            return read_model(self.config, self.job.init)
        model = Dinov3Seg(self.config)
        load_public(model, public_weights(self.job, self.config))
        return model

    def split(self, model: Dinov3Seg) -> Parts:
        """Freeze parameters that are not trained; return the others by learning rate."""
        return split_dinov3seg_parameters(model, self.job.recipe)

    def transformer(self, model: Dinov3Seg) -> nn.Module:
        """Return the VLM's vision tower."""
        return model.vlm.vision

    def make_dataset(self, data: DataRecipe) -> MaskDataset:
        """Open photos and masks for one phase."""
        return MaskDataset(self.job.masks, self.job.photos, text=self.bank, recipe=data, config=self.config)

    def fill(self, batch: Batch) -> Batch:
        """Return the batch unchanged: SAM is part of the network."""
        return batch

    def loss_terms(self, model: Dinov3Seg, batch: Batch, data: DataRecipe) -> dict[str, Tensor]:
        """Return the unweighted loss terms of a batch."""
        return dinov3seg_loss_terms(model, batch, recipe=data, weights=self.job.recipe.weights)

    def validate(self, model: Dinov3Seg) -> Scores:
        """Validate the network on the labelled photos, with the training prompt."""
        if self.labelled is None:
            raise ValueError("there is nothing to validate on")
        vocabulary = self.labelled.vocabulary
        text = embed_classes(model, vocabulary.classes)
        return measure(
            lambda photo: label_view(model, photo, text, background=vocabulary.background),
            self.labelled,
            self.team,
        )


def open_dinov3seg_inputs(job: TrainingJob, team: Team) -> Dinov3segInputs:
    """Open and check everything that a run reads; write nothing.

    Raises:
        OvsdinoError: an input is missing, damaged, or does not match the others.
    """
    config = job.recipe.model
    if not isinstance(config, Dinov3segConfig):
        raise TypeError(f"{config.name} is not a dinov3.seg")
    check_files(job, config.vlm.backbone)
    check_weights(job, config)
    reader = MaskReader(job.masks)
    settings: dict[str, Any] = {"recipe": job.recipe.to_dict(), "masks": hash_listing(reader)}
    for name in ("init", "text", "sam", "anyup"):
        path: Path | None = getattr(job, name)
        settings[name] = "none" if path is None else hash_file(path)
    labelled = None if job.validate is None else open_labelled(job.validate)
    bank = TokenBank(training_words(job.masks), config)
    return Dinov3segInputs(
        job=job, team=team, config=config, photos=len(reader), bank=bank, labelled=labelled, settings=settings
    )


def check_weights(job: TrainingJob, config: Dinov3segConfig) -> None:
    """Check that all public weights that the network needs are given and exist.

    Raises:
        CheckpointError: files are missing; the message names them and their options.
    """
    for name, what in (DINOTXT_FILES | SAM_FILE | ANYUP_FILE).items():
        path: Path | None = getattr(job, name)
        if path is not None and not path.is_file():
            raise CheckpointError(f"--{name} {path}: no such file; give {what}")
    if job.init is not None and is_network(job.init):
        return
    wanted = {"init": f"the backbone's weights ({config.vlm.backbone}, as timm publishes them)"}
    wanted |= {"dinotxt": DINOTXT_FILES, "clip": CLIP_FILES, "nano": {}}[config.vlm.text]
    if config.prior is not None and config.prior.frozen:
        wanted |= SAM_FILE
    missing = [f"--{name} FILE: {what}" for name, what in wanted.items() if getattr(job, name) is None]
    if missing:
        raise CheckpointError(f"{config.name} learns from public weights; give {'; '.join(missing)}")


def public_weights(job: TrainingJob, config: Dinov3segConfig) -> PublicWeights:
    """Return the public files by part of the network."""
    if config.vlm.kind == "clip":
        return PublicWeights(clip=job.init, sam=job.sam, anyup=job.anyup)
    return PublicWeights(backbone=job.init, dinotxt=job.text, sam=job.sam, anyup=job.anyup)
