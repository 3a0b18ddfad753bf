"""Assemble samples into a batch: choose its words, and collect the ground truth of each word."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ovsdino.training.data.batch import OTHER, UNKNOWN, Batch, WeakBox
from ovsdino.training.data.sample import Sample
from ovsdino.training.data.synonyms import Synonyms
from ovsdino.training.data_recipe import DataRecipe

Related = Mapping[str, frozenset[str]]
Bank = Callable[[Iterable[str]], Tensor]  # words -> their embeddings (N, D), or token ids (N, T)


@dataclass(frozen=True)
class TrainingWords:
    """All nouns of the training data, their names, and the embeddings or token ids of the names."""

    nouns: tuple[str, ...]
    synonyms: Synonyms
    bank: Bank
    distractors: tuple[str, ...] = ()  # nouns that `DataRecipe.listed_distractors` draws from


def assemble(samples: Sequence[Sample], lexicon: TrainingWords, recipe: DataRecipe) -> Batch:
    """Assemble samples into a batch; random choices depend only on the samples."""
    generator = np.random.default_rng([number for sample in samples for number in sample.seed])
    words = draw_words(samples, lexicon, recipe=recipe, generator=generator)
    place = {word: index for index, word in enumerate(words)}
    truths = [sample.truth for sample in samples]
    others = {word for truth in truths for word in (*truth.nouns, *truth.absent)}
    related = lexicon.synonyms.related([*words, *others])
    overlapping = lexicon.synonyms.overlapping(words)
    pairs = [(b, place[truth.nouns[p]]) for b, truth in enumerate(truths) for p in truth.places]
    names = [lexicon.synonyms.names_of(word) for word in words]
    picks = [int(generator.integers(len(synonyms))) if recipe.draw_synonyms else 0 for synonyms in names]
    ignored = any(truth.ignore is not None for truth in truths)
    return Batch(
        pixels=torch.stack([sample.pixels for sample in samples]),
        labels=batch_labels(samples, place),
        exclusive=torch.tensor([truth.labels is not None for truth in truths]),
        pairs=torch.tensor(pairs, dtype=torch.long).reshape(-1, 2),
        masks=torch.from_numpy(np.concatenate([truth.masks for truth in truths])),
        ignore=stack_ignored(samples) if ignored else None,
        words=words,
        text=lexicon.bank([synonyms[pick] for synonyms, pick in zip(names, picks, strict=True)]),
        valid=torch.stack(
            [judged(sample, words, related=related, recipe=recipe, generator=generator) for sample in samples]
        ),
        closed=membership([truth.closed for truth in truths], place),
        related=membership([related[word] for word in words], place),
        similar=similar_words(lexicon.bank([synonyms[0] for synonyms in names]), recipe.similar)
        | membership([overlapping[word] for word in words], place),
        boxes=tuple(
            WeakBox(b, place[truth.nouns[p]], box) for b, truth in enumerate(truths) for p, box in truth.weak
        ),
        photos=tuple(sample.photo for sample in samples),
        decoded=draw_decoded(samples, place, recipe=recipe, generator=generator),
        teacher=_stack([sample.teacher for sample in samples]),
        view=_stack([sample.view for sample in samples]),
    )


def draw_words(
    samples: Sequence[Sample], lexicon: TrainingWords, *, recipe: DataRecipe, generator: np.random.Generator
) -> tuple[str, ...]:
    """Choose the words of a batch: those in the squares, closed words, and distractors; or all words.

    If a photo contains a distractor, `judged` and `guard` exclude it there.
    """
    if recipe.words == "all":
        return lexicon.nouns
    words = {word for sample in samples for word in (*sample.truth.visible, *sample.truth.closed)}
    words |= draw_some(lexicon.nouns, recipe.distractors, generator)
    words |= draw_some(lexicon.distractors, recipe.listed_distractors, generator)
    return tuple(sorted(words))


def draw_some(words: Sequence[str], count: int, generator: np.random.Generator) -> set[str]:
    """Draw ``count`` different words, or all if there are fewer."""
    if not words or not count:
        return set()
    return {words[index] for index in generator.choice(len(words), min(count, len(words)), replace=False)}


def draw_decoded(
    samples: Sequence[Sample], place: Mapping[str, int], *, recipe: DataRecipe, generator: np.random.Generator
) -> Tensor | None:
    """Choose the words to decode, those in the squares first; None for all words."""
    if not 0 < recipe.decoded < len(place):
        return None
    visible = {place[word] for sample in samples for word in sample.truth.visible}
    drawn = generator.permutation(len(place)).tolist()
    first = sorted(drawn, key=lambda number: number not in visible)  # stable: the draw's order within both
    return torch.tensor(sorted(first[: recipe.decoded]))


def batch_labels(samples: Sequence[Sample], place: Mapping[str, int]) -> Tensor | None:
    """Convert label maps from indices of photo nouns to indices of batch words; None without label maps."""
    if all(sample.truth.labels is None for sample in samples):
        return None
    maps = []
    for sample in samples:
        truth = sample.truth
        if truth.labels is None:
            shape = next(s.truth.labels.shape for s in samples if s.truth.labels is not None)
            maps.append(np.full(shape, UNKNOWN))
        else:
            # Nouns outside the square may be no words of the batch, but their label does not occur either.
            table = np.array([*(place.get(noun, UNKNOWN) for noun in truth.nouns), OTHER, UNKNOWN])
            maps.append(table[truth.labels])  # OTHER = -2 and UNKNOWN = -1 index the table's end
    return torch.from_numpy(np.stack(maps))


def stack_ignored(samples: Sequence[Sample]) -> Tensor:
    """Stack the masks of ignored pixels: (B, s, s)."""
    shape = next(s.truth.ignore.shape for s in samples if s.truth.ignore is not None)
    maps = [np.zeros(shape, bool) if s.truth.ignore is None else s.truth.ignore for s in samples]
    return torch.from_numpy(np.stack(maps))


def judged(
    sample: Sample,
    words: Sequence[str],
    *,
    related: Related,
    recipe: DataRecipe,
    generator: np.random.Generator,
) -> Tensor:
    """Return which words of the batch count in the loss of a photo: (N,) bool.

    With exclusive masks these are all words except caption words without a region. Otherwise they are the
    words of the photo's masks and, as negatives, some words that the photo certainly lacks: neither a noun or
    caption word of the photo nor related to one.

    Source: OVS-DINO gives no rule; ``positives`` and ``negatives`` are our reconstruction.
    """
    truth = sample.truth
    nouns = set(truth.nouns)
    hidden = {other for word in truth.absent for other in (word, *related[word])} - nouns
    if truth.labels is not None:
        return torch.tensor([word not in hidden for word in words])
    known = hidden | nouns | {other for noun in nouns for other in related[noun]}
    candidates = [index for index, word in enumerate(words) if word not in known]
    chosen = set(generator.permutation(candidates)[: recipe.negatives].tolist())
    mine = {truth.nouns[place] for place in truth.places}
    return torch.tensor([word in mine or index in chosen for index, word in enumerate(words)])


def membership(sets: Sequence[Sequence[str] | frozenset[str]], place: Mapping[str, int]) -> Tensor:
    """Convert sets of words to rows of flags: (sets, N) bool."""
    flags = np.zeros((len(sets), len(place)), bool)
    for row, words in zip(flags, sets, strict=True):
        row[[place[word] for word in words if word in place]] = True
    return torch.from_numpy(flags)


def similar_words(text: Tensor, threshold: float | None) -> Tensor:
    """Find pairs of words with nearly equal embeddings: (N, D) -> (N, N) bool, False on the diagonal."""
    if threshold is None:
        return torch.zeros(len(text), len(text), dtype=torch.bool)
    return ((text @ text.T) > threshold).fill_diagonal_(False)


def _stack(tensors: Sequence[Tensor | None]) -> Tensor | None:
    present = [tensor for tensor in tensors if tensor is not None]
    return torch.stack(present) if present else None
