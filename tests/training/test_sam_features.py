"""SAM's features, from a tiny SAM of segment_anything's own parts: on the fly, cached, killed and resumed."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from segment_anything.modeling import ImageEncoderViT, MaskDecoder, PromptEncoder, Sam, TwoWayTransformer
from torch.utils.data import DataLoader

from ovsdino.masks.errors import MaskError
from ovsdino.network.config import NANO
from ovsdino.training.data.dataset import MaskDataset, training_words
from ovsdino.training.data_recipe import DataRecipe
from ovsdino.training.distributed import Team
from ovsdino.training.targets.sam_features import (
    CacheError,
    SamCache,
    SamTeacher,
    cache_features,
    create_cache,
    fill_cache,
)
from tests.training.small_shards import bank_of, open_photo, write_masks

SIDE = 64  # [px]
ALONE = Team(0, 1, torch.device("cpu"))
RECIPE = DataRecipe(size=48, crops=2, view=SIDE)
SHAPE = (256, SIDE // 16, SIDE // 16)


def tiny_sam() -> Sam:
    torch.manual_seed(0)
    encoder = ImageEncoderViT(
        img_size=SIDE,
        embed_dim=32,
        depth=2,
        num_heads=2,
        use_rel_pos=True,
        window_size=2,
        global_attn_indexes=(1,),
    )
    prompts = PromptEncoder(
        embed_dim=256, image_embedding_size=(4, 4), input_image_size=(SIDE, SIDE), mask_in_chans=16
    )
    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    sam = Sam(encoder, prompts, MaskDecoder(transformer_dim=256, transformer=transformer))
    with torch.no_grad():
        for parameter in sam.image_encoder.parameters():  # official initial positions are all zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    return sam.eval()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("sam") / "sam_vit_b_01ec64.pth"
    torch.save(tiny_sam().state_dict(), path)
    return path


@pytest.fixture(scope="module")
def teacher(checkpoint) -> SamTeacher:
    return SamTeacher(checkpoint)


@pytest.fixture
def dataset(tmp_path) -> MaskDataset:
    folder = tmp_path / "photos"
    photos = [open_photo(folder, f"{i}.png", ("cat", "dog"), i) for i in range(7)]
    masks = write_masks(tmp_path / "masks", photos)
    return MaskDataset(
        masks, folder, text=bank_of(training_words(masks), tmp_path), recipe=RECIPE, config=NANO
    )


def test_features_are_the_neck_output_of_segment_anything(teacher):
    views = torch.randint(0, 256, (3, 3, SIDE, SIDE), generator=torch.Generator().manual_seed(1)).to(
        torch.uint8
    )
    sam = tiny_sam()
    with torch.no_grad():
        expected = sam.image_encoder(torch.stack([sam.preprocess(view.float()) for view in views]))
    features = teacher(views)
    assert features.shape == (3, *SHAPE)
    assert features.dtype == torch.float16
    torch.testing.assert_close(features.float(), expected, rtol=2e-3, atol=2e-3)  # FP16 has 11 bits


def test_sam_is_frozen_and_its_features_can_be_a_target(teacher):
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    assert not teacher.encoder.training
    structure = torch.randn(1, *SHAPE, requires_grad=True)
    loss = (structure - teacher(torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)).float()).square().mean()
    loss.backward()
    assert structure.grad.abs().sum() > 0


def test_a_marked_place_lies_at_the_same_place_in_pixels_mask_view_and_features(tmp_path, teacher):
    """From the disk to the batch: a bright mark in the photo, its mask, and where SAM's features change."""
    folder = tmp_path / "photos"
    records = [open_photo(folder, "0.png", ("cat",), 0)]
    mark = np.zeros((96, 120), bool)
    mark[40:56, 50:66] = True
    from PIL import Image

    from tests.training.small_shards import region

    records[0] = replace(records[0], regions=(region("cat", mark),))
    masks = write_masks(tmp_path / "masks", records)
    bank = bank_of(training_words(masks), tmp_path)
    recipe = replace(RECIPE, crops=0, crop_scale=(0.8, 1.0))
    dataset = MaskDataset(masks, folder, text=bank, recipe=recipe, config=NANO)
    for epoch in range(6):
        dataset.set_epoch(epoch)
        batches = []
        for shade in (0, 255):
            photo = np.full((96, 120, 3), 30, np.uint8)
            photo[mark] += np.uint8(shade // 255 * 200)
            Image.fromarray(photo).save(folder / "0.png")
            batches.append(teacher.fill(dataset.collate([dataset[0]])))
        plain, marked = batches
        seen = (marked.pixels - plain.pixels).abs().sum(1)[0]
        heat = (marked.teacher.float() - plain.teacher.float()).norm(dim=1)[0] ** 4
        places = [centre(array) for array in (seen, marked.masks[0].float(), heat)]
        assert places[0] == pytest.approx(places[1], abs=0.5 / 48)
        assert places[2] == pytest.approx(places[0], abs=0.6 / 4), "within a cell of SAM's 4x4"


def centre(weights: torch.Tensor) -> tuple[float, float]:
    places = (torch.arange(len(weights)) + 0.5) / len(weights)
    share = weights / weights.sum()
    return float(share.sum(1) @ places), float(share.sum(0) @ places)


def test_a_batch_is_filled_once(dataset, teacher):
    batch = dataset.collate([dataset[0], dataset[1]])
    assert batch.view.shape == (2, 3, SIDE, SIDE)
    assert batch.teacher is None
    filled = teacher.fill(batch)
    assert filled.view is None
    assert torch.equal(filled.teacher, teacher(batch.view))
    assert teacher.fill(filled) is filled


def test_cached_features_are_those_of_the_same_squares(tmp_path, dataset, teacher):
    cache = cache_features(dataset, teacher, folder=tmp_path / "cache", team=ALONE)
    cached = MaskDataset(
        dataset.reader.folder,
        dataset.photos,
        text=dataset.lexicon.bank,
        recipe=RECIPE,
        config=NANO,
        teacher=cache,
    )
    for epoch in range(3):
        dataset.set_epoch(epoch)
        cached.set_epoch(epoch)
        fresh = teacher.fill(dataset.collate([dataset[i] for i in range(7)]))
        loader = DataLoader(cached, 7, collate_fn=cached.collate, num_workers=epoch % 2)
        (stored,) = list(loader)
        assert stored.view is None
        assert stored.photos == fresh.photos
        assert torch.equal(stored.pixels, fresh.pixels)
        # Another batch size may round the last of FP16's 11 bits another way.
        torch.testing.assert_close(stored.teacher, fresh.teacher, rtol=2e-3, atol=2e-3)
        assert teacher.fill(stored) is stored


def die_after(checkpoint: Path, dataset: MaskDataset, folder: Path, batches: int) -> None:
    """Fill the cache and be killed at the n-th batch, features computed but not written."""
    torch.set_num_threads(1)
    teacher, calls = SamTeacher(checkpoint), []

    class Deadly(SamTeacher):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            calls.append(len(views))
            if len(calls) > batches:
                os.kill(os.getpid(), signal.SIGKILL)
            return SamTeacher.forward(self, views)

    teacher.__class__ = Deadly
    fill_cache(dataset, teacher, folder)


def test_killed_while_filling_it_goes_on_and_ends_the_same(
    tmp_path, dataset, teacher, checkpoint, monkeypatch
):
    monkeypatch.setattr("ovsdino.training.targets.sam_features.BATCH", 3)
    whole = cache_features(dataset, teacher, folder=tmp_path / "whole", team=ALONE)
    create_cache(dataset, teacher, tmp_path / "killed")
    context = multiprocessing.get_context("fork")
    child = context.Process(target=die_after, args=(checkpoint, dataset, tmp_path / "killed", 2))
    child.start()
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    with pytest.raises(CacheError, match=r"8 squares have no features yet; start the command again to go on"):
        SamCache(tmp_path / "killed")
    resumed = cache_features(dataset, teacher, folder=tmp_path / "killed", team=ALONE)
    for place in range(14):
        torch.testing.assert_close(resumed[place], whole[place], rtol=2e-3, atol=2e-3)


def test_two_processes_share_the_squares(tmp_path, dataset, teacher):
    create_cache(dataset, teacher, tmp_path / "cache")
    for rank in (1, 0):
        fill_cache(dataset, teacher, tmp_path / "cache", rank=rank, world=2)
        if rank:
            with pytest.raises(CacheError, match="7 squares have no features yet"):
                SamCache(tmp_path / "cache")
    whole = cache_features(dataset, teacher, folder=tmp_path / "whole", team=ALONE)
    shared = SamCache(tmp_path / "cache")
    for place in range(14):
        torch.testing.assert_close(shared[place], whole[place], rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"seed": 1}, "seed: got 0, expected 1"),
        ({"crops": 3}, "crops: got 2, expected 3"),
        ({"flip": 0.0}, "flip"),
    ],
)
def test_a_cache_of_other_squares_is_refused(tmp_path, dataset, teacher, changes, named):
    create_cache(dataset, teacher, tmp_path / "cache")
    recipe = replace(RECIPE, **changes)
    other = MaskDataset(
        dataset.reader.folder, dataset.photos, text=dataset.lexicon.bank, recipe=recipe, config=NANO
    )
    with pytest.raises(CacheError, match=f"features of another {named}"):
        create_cache(other, teacher, tmp_path / "cache")


def test_the_size_of_the_training_square_does_not_matter_but_the_photos_do(tmp_path, dataset, teacher):
    create_cache(dataset, teacher, tmp_path / "cache")
    larger = replace(RECIPE, size=96)
    same = MaskDataset(
        dataset.reader.folder, dataset.photos, text=dataset.lexicon.bank, recipe=larger, config=NANO
    )
    create_cache(same, teacher, tmp_path / "cache")
    photo = dataset.photos / "0.png"
    photo.write_bytes(photo.read_bytes() + b"\n")
    with pytest.raises(CacheError, match="features of another photos"):
        create_cache(dataset, teacher, tmp_path / "cache")


def test_what_cannot_be_cached_is_refused_before_anything_is_written(tmp_path, dataset, teacher, monkeypatch):
    drawn = MaskDataset(
        dataset.reader.folder,
        dataset.photos,
        text=dataset.lexicon.bank,
        recipe=replace(RECIPE, crops=0),
        config=NANO,
    )
    with pytest.raises(CacheError, match="got crops=0, expected 1 or more"):
        cache_features(drawn, teacher, folder=tmp_path / "cache", team=ALONE)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(CacheError, match=r"14 squares take 0.0 GiB, 0.0 GiB are free; use fewer crops"):
        cache_features(dataset, teacher, folder=tmp_path / "cache", team=ALONE)
    assert not (tmp_path / "cache" / "key.json").exists()
    with pytest.raises(CacheError, match=r"no done.npy in it"):
        SamCache(tmp_path / "nowhere")


def test_a_missing_checkpoint_is_named_with_the_command_that_gets_it(tmp_path):
    with pytest.raises(
        MaskError, match=r"sam_vit_b_01ec64.pth: no such file; .*curl -L -o .*sam_vit_b_01ec64.pth"
    ):
        SamTeacher(tmp_path / "sam_vit_b_01ec64.pth")


def test_a_view_of_another_size_is_refused(teacher):
    with pytest.raises(CacheError, match="SAM reads 64 px, the recipe's view is 32 px"):
        teacher(torch.zeros(1, 3, 32, 32, dtype=torch.uint8))


def test_a_damaged_square_is_refused_in_a_line(tmp_path, dataset, teacher):
    cache = cache_features(dataset, teacher, folder=tmp_path / "cache", team=ALONE)
    file = tmp_path / "cache" / "features.npy"
    data = bytearray(file.read_bytes())
    data[-100] ^= 1  # of the last square
    file.write_bytes(data)
    cache[0]
    with pytest.raises(CacheError, match=r"features\.npy: square 13 is damaged; delete .*, it is made again"):
        cache[13]
    for name in ("done.npy", "sums.npy"):
        whole = (tmp_path / "cache" / name).read_bytes()
        (tmp_path / "cache" / name).write_bytes(whole[:100])
        with pytest.raises(CacheError, match=rf"{name}: damaged"):
            SamCache(tmp_path / "cache")
        (tmp_path / "cache" / name).write_bytes(whole)
