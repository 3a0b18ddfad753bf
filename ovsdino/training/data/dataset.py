"""The training data set: draws samples from shards of masks and a folder of photos."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.masks.store.shards import MaskReader, PhotoMasks
from ovsdino.network.config import ModelConfig
from ovsdino.training.data.augment import Square, cut_photo, draw_square, jitter_colours, normalise_pixels
from ovsdino.training.data.batch import Batch, WeakBox
from ovsdino.training.data.collate import Bank, TrainingWords, assemble
from ovsdino.training.data.sample import Sample, cut_truth
from ovsdino.training.data.synonyms import read_distractors, read_synonyms
from ovsdino.training.data_recipe import DataRecipe
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.geometry.types import Photo

__all__ = ["Batch", "DataRecipe", "MaskDataset", "Sample", "WeakBox", "training_words"]


class PhotoMismatchError(OvsdinoError):
    """Masks and photos do not match."""


class TeacherFeatures(Protocol):
    """SAM features of crops, such as :class:`ovsdino.training.targets.sam_features.SamCache`."""

    def __getitem__(self, place: int) -> Tensor:
        """Return crop ``place % crops`` of photo ``place // crops``: (256, 64, 64) FP16."""


class MaskDataset(Dataset[Sample]):
    """The photos of a folder of masks, drawn again in each epoch.

    Sample ``i`` of an epoch depends only on the recipe, its seed, the epoch and ``i``. Without shares each
    photo occurs once per epoch; with shares, as often as the weight of its folder demands.

    Args:
        masks: a folder that ``ovsdino pseudo-masks`` made.
        photos: the folder with the photos of the masks.
        text: embeddings or token ids of :func:`training_words`.
        recipe: sizes, augmentation and words.
        config: holds the mean and standard deviation of the colours.
        teacher: SAM features from disk; None adds a view for SAM to each sample.

    Raises:
        MaskError: the folder has no complete masks.
        DataError: photos are missing, or the teacher's features need fixed crops.
    """

    def __init__(
        self,
        masks: Path,
        photos: Path,
        *,
        text: Bank,
        recipe: DataRecipe,
        config: ModelConfig | Dinov3segConfig,
        teacher: TeacherFeatures | None = None,
    ) -> None:
        self.reader = MaskReader(masks)
        self.photos, self.recipe, self.config, self.teacher = photos, recipe, config, teacher
        if teacher is not None and not recipe.crops:
            raise PhotoMismatchError(
                "SAM's features from disk are of fixed crops: got crops=0, expected 1 or more"
            )
        synonyms = read_synonyms(masks)
        distractors = read_distractors(masks)
        nouns = tuple(dict.fromkeys([*self.reader.vocabulary, *synonyms.nouns, *distractors]))
        self.lexicon = TrainingWords(nouns=nouns, synonyms=synonyms, bank=text, distractors=distractors)
        self._check_photos()
        shares = dict(recipe.shares)
        weights = np.array([share_of(image, shares) for image in self.reader.images])
        if shares and not weights.sum():
            raise PhotoMismatchError(
                f"the shares {recipe.shares} leave no photo to draw; give one of them a weight"
            )
        self._chance = weights / weights.sum() if shares else None
        self._epoch = torch.zeros((), dtype=torch.long)
        self._epoch.share_memory_()  # type: ignore[no-untyped-call]  # running workers see it, too
        self._order: tuple[int, npt.NDArray[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.reader)

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the samples; call it before iterating over the loader."""
        self._epoch.fill_(epoch)

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Return the photos of an epoch, as indices of the mask reader: (len,)."""
        generator = np.random.default_rng((self.recipe.seed, epoch))
        if self._chance is None:
            return generator.permutation(len(self))
        return generator.choice(len(self), len(self), p=self._chance)

    def __getitem__(self, index: int) -> Sample:
        epoch = int(self._epoch)
        if self._order is None or self._order[0] != epoch:
            self._order = (epoch, self.order(epoch))
        number = int(self._order[1][index])
        seed = (self.recipe.seed, epoch, index)
        generator = np.random.default_rng(seed)
        masks, photo = self.read(number)
        crop = epoch % self.recipe.crops if self.recipe.crops else 0
        square = self.square(number, crop, masks=masks, generator=generator)
        cut = jitter_colours(cut_photo(photo, square, self.recipe.size), self.recipe, generator)
        teacher = None if self.teacher is None else self.teacher[number * self.recipe.crops + crop]
        wants_view = self.recipe.structure_target == "sam" and teacher is None
        return Sample(
            photo=masks.image,
            seed=seed,
            pixels=normalise_pixels(cut, self.config.mean, self.config.std),
            truth=cut_truth(masks, square, recipe=self.recipe, generator=generator),
            teacher=teacher,
            view=sam_view(photo, square, self.recipe.view) if wants_view else None,
        )

    def read(self, number: int) -> tuple[PhotoMasks, Photo]:
        """Read a photo and its masks.

        Raises:
            PhotoError: the photo is broken.
            DataError: the photo and its masks have different sizes.
        """
        masks = self.reader[number]
        photo = load_photo(self.photos / masks.image)
        if photo.shape[:2] != (masks.height, masks.width):
            raise PhotoMismatchError(
                f"{self.photos / masks.image}: {photo.shape[1]}x{photo.shape[0]} px, its masks are of "
                f"{masks.width}x{masks.height} px; give the folder of photos that the masks were made from"
            )
        return masks, photo

    def square(
        self, number: int, crop: int, *, masks: PhotoMasks, generator: np.random.Generator | None = None
    ) -> Square:
        """Draw the square of a photo: one of ``recipe.crops`` fixed squares, or a new random one."""
        if self.recipe.crops or generator is None:
            generator = np.random.default_rng((self.recipe.seed, number, crop))
        return draw_square(masks.height, masks.width, recipe=self.recipe, generator=generator)

    def collate(self, samples: Sequence[Sample]) -> Batch:
        """Assemble a batch; random choices depend only on the samples."""
        return assemble(samples, self.lexicon, self.recipe)

    def _check_photos(self) -> None:
        images = self.reader.images
        missing = [image for image in images if not (self.photos / image).is_file()]
        if missing or not images:
            what = f"{len(missing)} of {len(images)} photos that have masks are missing"
            first = f", the first is {missing[0]}" if missing else ""
            raise PhotoMismatchError(
                f"{self.photos}: {what}{first}; give the folder of photos that the masks were made from"
            )


def share_of(image: str, shares: Mapping[str, float]) -> float:
    """Return the weight of the deepest folder above a photo that has one; 1 if none has."""
    folders = image.split("/")[:-1]
    above = ("/".join(folders[:end]) for end in range(len(folders), 0, -1))
    return next((shares[folder] for folder in above if folder in shares), 1.0)


def sam_view(photo: Photo, square: Square, size: int) -> Tensor:
    """Cut the square at SAM's size: (3, size, size) uint8.

    The square fills SAM's input without padding, so that positions in both correspond.
    """
    return torch.from_numpy(np.ascontiguousarray(cut_photo(photo, square, size).transpose(2, 0, 1)))


def training_words(masks: Path) -> tuple[str, ...]:
    """Return all words that training on these masks may need embeddings for."""
    synonyms = read_synonyms(masks)
    nouns = {*MaskReader(masks).vocabulary, *synonyms.nouns, *read_distractors(masks)}
    return tuple(sorted({name for noun in nouns for name in synonyms.names_of(noun)}))
