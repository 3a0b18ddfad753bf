"""Samples and batches: what is drawn, what is known, what is never a negative."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from ovsdino.network.config import NANO
from ovsdino.training.data.batch import OTHER, UNKNOWN
from ovsdino.training.data.dataset import MaskDataset, PhotoMismatchError, share_of, training_words
from ovsdino.training.data.synonyms import Synonyms
from ovsdino.training.data_recipe import NANO_DATA, DataRecipe
from ovsdino.training.targets.word_bank import WordBank, WordError
from ovsdino_runtime.base.errors import PhotoError
from tests.training.small_shards import (
    CLOSED,
    COLOURS,
    SYNONYMS,
    bank_of,
    exclusive_photo,
    open_photo,
    prompter,
    write_masks,
    write_synonyms,
)

SMALL = replace(NANO_DATA, size=64, largest=128, label_stride=4, distractors=3, shares=())
PAPER = DataRecipe(size=56, negatives=3, positives=2, structure_target="none")


@pytest.fixture
def exclusive(tmp_path) -> MaskDataset:
    photos = [exclusive_photo(tmp_path / "photos", f"{'ab'[i % 2]}/{i}.png", i) for i in range(6)]
    masks = write_masks(tmp_path / "masks", photos)
    return MaskDataset(
        masks, tmp_path / "photos", text=bank_of(training_words(masks), tmp_path), recipe=SMALL, config=NANO
    )


@pytest.fixture
def mixed(tmp_path) -> MaskDataset:
    folder = tmp_path / "photos"
    photos = [
        open_photo(folder, "0.png", ("cat", "sofa", "table"), 0, absent=("window",)),
        open_photo(folder, "1.png", ("dog", "tennis racket"), 1),
        open_photo(folder, "2.png", ("boat", "window", "light"), 2),
        exclusive_photo(folder, "3.png", 3),
        open_photo(folder, "4.png", ("racket", "traffic light"), 4),
    ]
    masks = write_masks(tmp_path / "masks", photos, None)
    bank = bank_of({*training_words(masks), *CLOSED}, tmp_path)
    return MaskDataset(masks, folder, text=bank, recipe=PAPER, config=NANO)


def same(one, other) -> bool:
    return (
        torch.equal(one.pixels, other.pixels)
        and np.array_equal(one.truth.labels, other.truth.labels)
        and np.array_equal(one.truth.masks, other.truth.masks)
        and one.truth.weak == other.truth.weak
    )


def test_a_sample_depends_on_seed_epoch_and_place_alone(exclusive):
    exclusive.set_epoch(1)
    first = [exclusive[i] for i in range(6)]
    exclusive.set_epoch(2)
    second = [exclusive[i] for i in (5, 4, 3, 2, 1, 0)][::-1]
    exclusive.set_epoch(1)
    again = [exclusive[i] for i in (3, 0)]
    assert same(first[3], again[0])
    assert same(first[0], again[1])
    assert not any(same(a, b) for a, b in zip(first, second, strict=True))
    assert (
        sorted(s.photo for s in first) == sorted(s.photo for s in second) == sorted(exclusive.reader.images)
    )
    other = MaskDataset(
        exclusive.reader.folder,
        exclusive.photos,
        text=exclusive.lexicon.bank,
        recipe=replace(SMALL, seed=1),
        config=NANO,
    )
    other.set_epoch(1)
    assert not any(same(other[i], first[i]) for i in range(6))


def test_running_workers_see_a_new_epoch_and_make_the_same_batches(exclusive):
    loader = DataLoader(exclusive, 3, collate_fn=exclusive.collate, num_workers=1, persistent_workers=True)
    for epoch in (1, 2):
        exclusive.set_epoch(epoch)
        expected = [exclusive.collate([exclusive[i] for i in part]) for part in ((0, 1, 2), (3, 4, 5))]
        for batch, wanted in zip(loader, expected, strict=True):
            assert batch.photos == wanted.photos
            assert batch.words == wanted.words
            for name in ("pixels", "labels", "text", "valid", "closed", "related", "similar"):
                assert torch.equal(getattr(batch, name), getattr(wanted, name)), name


def test_a_pickled_data_set_draws_the_same(exclusive):
    exclusive.set_epoch(4)
    assert same(pickle.loads(pickle.dumps(exclusive))[2], exclusive[2])  # noqa: S301


def test_shares_say_how_often_a_folder_is_drawn(exclusive):
    recipe = replace(SMALL, shares=(("a", 3.0), ("b", 1.0)))
    shared = MaskDataset(
        exclusive.reader.folder, exclusive.photos, text=exclusive.lexicon.bank, recipe=recipe, config=NANO
    )
    counts = Counter(
        shared.reader.images[number].split("/")[0] for epoch in range(200) for number in shared.order(epoch)
    )
    assert counts.total() == 1200
    assert abs(counts["a"] - 900) < 5 * (1200 * 0.75 * 0.25) ** 0.5  # five standard deviations
    assert sorted(exclusive.order(0)) == list(range(6)), "without shares each photo comes once"


def test_the_longest_folder_with_a_share_counts():
    shares = {"old": 2.0, "old/rooms": 0.5}
    images = ("old/rooms/a.png", "old/b.png", "old/rooms/deep/c.png", "new/d.png", "e.png")
    assert [share_of(image, shares) for image in images] == [0.5, 2.0, 0.5, 1.0, 1.0]


def test_shares_that_leave_no_photo_are_refused(exclusive):
    recipe = replace(SMALL, shares=(("a", 0.0), ("b", 0.0)))
    with pytest.raises(PhotoMismatchError, match="leave no photo to draw"):
        MaskDataset(
            exclusive.reader.folder, exclusive.photos, text=exclusive.lexicon.bank, recipe=recipe, config=NANO
        )


def test_labels_are_the_colours_of_the_pixels_they_stand_for(tmp_path, exclusive):
    """The photos' grey values are their labels: pixels and labels went two ways through the same square."""
    plain = replace(SMALL, jitter=(0, 0, 0, 0))
    dataset = MaskDataset(
        exclusive.reader.folder, exclusive.photos, text=exclusive.lexicon.bank, recipe=plain, config=NANO
    )
    batch = dataset.collate([dataset[i] for i in range(6)])
    place = {word: index for index, word in enumerate(batch.words)}
    meaning = {name: place.get(name, OTHER) for name in COLOURS} | {"ignored": UNKNOWN}
    grey = (batch.pixels[:, 0] * 0.5 + 0.5) * 255  # (B, 64, 64)
    centre = (
        grey.reshape(6, 16, 4, 16, 4)[:, :, 1:3, :, 1:3].permute(0, 1, 3, 2, 4).flatten(3)
    )  # (B, 16, 16, 4)
    compared = 0
    for name, value in COLOURS.items():
        pure = ((centre - value).abs() < 0.5).all(-1)
        compared += int(pure.sum())
        assert (batch.labels[pure] == meaning[name]).all(), name
    assert compared > 0.7 * centre[..., 0].numel()


def test_the_batch_s_words_are_those_present_those_closed_and_distractors(exclusive):
    bank = bank_of(
        [*training_words(exclusive.reader.folder), "owl", "lamp", "hat", "cup", "rug"], exclusive.photos
    )
    more = Synonyms({**SYNONYMS.names, **{word: (word,) for word in ("owl", "lamp", "hat", "cup", "rug")}})
    write_synonyms(exclusive.reader.folder, more)
    dataset = MaskDataset(exclusive.reader.folder, exclusive.photos, text=bank, recipe=SMALL, config=NANO)
    batch = dataset.collate([dataset[i] for i in range(3)])
    needed = set(CLOSED) | ({"taxi"} if batch.boxes else set())
    assert needed <= set(batch.words)
    assert len(set(batch.words) - needed) <= 3
    drawn = {word for i in range(20) for word in dataset.collate([dataset[i % 6]]).words}
    dataset.set_epoch(1)
    drawn |= {word for i in range(6) for word in dataset.collate([dataset[i]]).words}
    assert {"owl", "lamp", "hat", "cup", "rug"} & drawn
    assert batch.closed.tolist() == [[word in CLOSED for word in batch.words]] * 3
    assert batch.valid.all()


def test_a_noun_is_called_by_any_of_its_names(exclusive):
    bank, seen = exclusive.lexicon.bank, set()
    for epoch in range(12):
        exclusive.set_epoch(epoch)
        batch = exclusive.collate([exclusive[0]])
        vector = batch.text[batch.words.index("car")]
        seen |= {name for name in ("car", "automobile") if torch.equal(vector, bank([name])[0])}
    assert seen == {"car", "automobile"}
    torch.testing.assert_close(batch.text.norm(dim=1), torch.ones(len(batch.words)))
    car, taxi = (batch.words.index(w) for w in ("car", "taxi")) if "taxi" in batch.words else (0, 0)
    assert batch.related[car, taxi] == batch.related[taxi, car] == (car != taxi)


def test_similar_words_are_those_whose_first_names_lie_close(exclusive):
    batch = exclusive.collate([exclusive[i] for i in range(6)])
    vectors = exclusive.lexicon.bank(batch.words).numpy()
    for i, one in enumerate(vectors):
        for j, other in enumerate(vectors):
            assert bool(batch.similar[i, j]) == (i != j and float(one @ other) > 0.62)


def test_weak_words_keep_their_box_and_their_number(exclusive):
    batches = [exclusive.collate([exclusive[i]]) for i in range(6)]
    found = [weak for batch in batches for weak in batch.boxes]
    assert found
    for batch in batches:
        for weak in batch.boxes:
            assert batch.words[weak.word] == "taxi"
            left, top, right, bottom = weak.box
            assert 0 <= left < right <= 1
            assert 0 <= top < bottom <= 1
    none = MaskDataset(
        exclusive.reader.folder,
        exclusive.photos,
        text=exclusive.lexicon.bank,
        recipe=replace(SMALL, weak_words=0),
        config=NANO,
    )
    assert not none.collate([none[i] for i in range(6)]).boxes


def test_negatives_are_words_that_a_photo_surely_lacks(mixed):
    guards = {  # the photo's nouns and caption words, and what they hold or are held by
        "0.png": {"cat", "sofa", "table", "window"},
        "1.png": {"dog", "tennis racket", "racket"},
        "2.png": {"boat", "window", "light", "traffic light"},
        "4.png": {"racket", "traffic light", "tennis racket", "light"},
    }
    used: set[str] = set()
    for epoch in range(8):
        mixed.set_epoch(epoch)
        batch = mixed.collate([mixed[i] for i in range(5)])
        for b, photo in enumerate(batch.photos):
            judged = {word for word, ok in zip(batch.words, batch.valid[b].tolist(), strict=True) if ok}
            mine = {batch.words[w] for p, w in batch.pairs.tolist() if p == b}
            if photo == "3.png":
                assert judged == set(batch.words)
                continue
            negatives = judged - mine
            assert len(mine) <= 2, "the cap on positives"
            assert mine <= guards[photo]
            assert len(negatives) == 3
            assert not negatives & guards[photo]
            used |= negatives
    assert {"cat", "dog", "boat"} <= used


def test_photos_of_both_kinds_share_a_batch(mixed):
    batch = mixed.collate([mixed[i] for i in range(5)])
    b = batch.photos.index("3.png")
    assert (batch.labels[b] != UNKNOWN).any()
    assert (batch.labels[[i for i in range(5) if i != b]] == UNKNOWN).all()
    assert batch.exclusive.tolist() == [i == b for i in range(5)]
    assert b not in batch.pairs[:, 0]
    assert batch.masks.shape == (len(batch.pairs), 56, 56)
    assert batch.masks.flatten(1).any(1).all(), "a mask outside the square is no positive"
    moved = batch.to("cpu")
    assert len(moved) == 5
    assert torch.equal(moved.masks, batch.masks)


def test_open_photos_alone_have_no_label_map(mixed):
    samples = [sample for sample in (mixed[i] for i in range(5)) if sample.photo != "3.png"]
    batch = mixed.collate(samples)
    assert batch.labels is None
    assert batch.ignore is None


def test_ignored_pixels_of_an_open_photo(tmp_path):
    folder = tmp_path / "photos"
    half = np.zeros((96, 120), bool)
    half[:, :60] = True
    from ovsdino.masks.store.shards import Rle

    photos = [
        open_photo(folder, "0.png", ("cat",), 0, ignore=Rle.encode(half)),
        open_photo(folder, "1.png", ("dog",), 1),
    ]
    masks = write_masks(tmp_path / "masks", photos)
    recipe = replace(PAPER, crop_scale=(1.0, 1.0), flip=0.0)
    dataset = MaskDataset(
        masks, folder, text=bank_of(training_words(masks), tmp_path), recipe=recipe, config=NANO
    )
    batch = dataset.collate([dataset[0], dataset[1]])
    with_ignore = batch.photos.index("0.png")
    ignored = batch.ignore[with_ignore]
    assert not batch.ignore[1 - with_ignore].any()
    edge = ignored.sum(1).unique().tolist()
    assert len(edge) == 1, "a vertical edge"
    assert ignored[:, : edge[0]].all()
    assert 0 < edge[0] < 56


def test_fixed_squares_come_back_after_their_round(exclusive):
    recipe = replace(SMALL, crops=2, jitter=(0, 0, 0, 0))
    dataset = MaskDataset(
        exclusive.reader.folder, exclusive.photos, text=exclusive.lexicon.bank, recipe=recipe, config=NANO
    )

    def pixels(epoch: int) -> dict[str, torch.Tensor]:
        dataset.set_epoch(epoch)
        return {sample.photo: sample.pixels for sample in (dataset[i] for i in range(6))}

    rounds = [pixels(epoch) for epoch in range(4)]
    for photo in dataset.reader.images:
        assert torch.equal(rounds[0][photo], rounds[2][photo])
        assert torch.equal(rounds[1][photo], rounds[3][photo])
        assert not torch.equal(rounds[0][photo], rounds[1][photo])


def test_photos_that_are_not_there_are_counted_before_anything_begins(tmp_path, exclusive):
    (exclusive.photos / "a/2.png").unlink()
    with pytest.raises(
        PhotoMismatchError, match=r"1 of 6 photos that have masks are missing, the first is a/2.png"
    ):
        MaskDataset(
            exclusive.reader.folder, exclusive.photos, text=exclusive.lexicon.bank, recipe=SMALL, config=NANO
        )


def test_a_photo_of_another_size_or_a_broken_one_is_named(exclusive):
    path = exclusive.photos / exclusive.reader.images[int(exclusive.order(0)[0])]
    Image.new("RGB", (50, 40)).save(path)
    with pytest.raises(PhotoMismatchError, match=r"50x40 px, its masks are of 120x96 px"):
        exclusive[0]
    path.write_bytes(b"no photo")
    with pytest.raises(PhotoError, match=path.name):
        exclusive[0]


def test_a_word_without_an_embedding_is_named(exclusive):
    bank = WordBank(["road"], torch.ones(1, 384))
    dataset = MaskDataset(exclusive.reader.folder, exclusive.photos, text=bank, recipe=SMALL, config=NANO)
    with pytest.raises(WordError, match="no embedding of the word 'car'"):
        dataset.collate([dataset[0]])


def test_a_cache_needs_fixed_squares(exclusive):
    with pytest.raises(PhotoMismatchError, match="got crops=0, expected 1 or more"):
        MaskDataset(
            exclusive.reader.folder,
            exclusive.photos,
            text=exclusive.lexicon.bank,
            recipe=SMALL,
            config=NANO,
            teacher={},
        )


def test_the_words_of_a_folder_are_its_nouns_and_their_names(exclusive):
    words = training_words(exclusive.reader.folder)
    assert set(words) == {"road", "sidewalk", "sky", "car", "automobile", "taxi", "cab"}
    assert prompter().digest == prompter().digest
