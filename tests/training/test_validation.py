"""The figures of an epoch are those of the evaluation."""

import numpy as np
import pytest
import torch
from PIL import Image

from ovsdino.network.model import OVSDINO
from ovsdino.training.distributed import Team
from ovsdino.training.systems.validation import label_photo, validate
from ovsdino_runtime.files.labeled_folder import open_labelled
from tests.training.tiny_run import TINY

ALONE = Team(0, 1, torch.device("cpu"))


@pytest.fixture
def folder(tmp_path):
    generator = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for number in range(3):
        pixels = generator.integers(0, 256, (40, 56, 3)).astype(np.uint8)
        labels = generator.integers(0, 3, (40, 56)).astype(np.uint8)
        labels[:4] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{number}.png")
        Image.fromarray(labels).save(tmp_path / "labels" / f"{number}.png")
    (tmp_path / "names.txt").write_text("background\ncat\nsky|heaven\n")
    return tmp_path


def network():
    torch.manual_seed(0)
    return OVSDINO(TINY).eval()


def text():
    return torch.nn.functional.normalize(
        torch.randn(2, 384, generator=torch.Generator().manual_seed(0)), dim=-1
    )


def test_scores_are_those_of_a_loop_over_pixels(folder):
    labelled = open_labelled(folder)
    assert labelled.vocabulary.names == ("background", "cat", "sky")
    found = validate(network(), labelled, text=text(), team=ALONE)
    hits, union, seen = np.zeros(3), np.zeros(3), np.zeros(3)
    for photo, labels in labelled.pairs:
        truth = np.asarray(Image.open(labels)).astype(int)
        guess = label_photo(network(), np.asarray(Image.open(photo)), text(), background=True)
        for t, g in zip(truth.ravel(), guess.ravel(), strict=True):
            if t != 255:
                seen[t] += 1
                hits[t] += t == g
                union[t] += 1
                union[g] += t != g
    assert found.miou == pytest.approx((hits / union)[seen > 0].mean())


def test_a_photo_is_labelled_as_the_exported_model_labels_it(folder):
    """One window: cosines of the network's own features, upsampled by torch, and the best class."""
    pixels = np.asarray(Image.open(folder / "images/0.png"))[:, :40]
    network_, words = network(), text()
    square = torch.nn.functional.interpolate(
        torch.from_numpy(pixels.astype(np.float32)).permute(2, 0, 1)[None], (32, 32), mode="bilinear"
    )
    with torch.no_grad():
        features = network_((square / 255 - 0.5) / 0.5)
    cosine = torch.einsum("bdhw,nd->bnhw", torch.nn.functional.normalize(features, dim=1), words)
    whole = torch.nn.functional.interpolate(cosine, (32, 32), mode="bilinear")
    expected = torch.nn.functional.interpolate(whole, (40, 40), mode="bilinear").argmax(1)[0]
    assert (label_photo(network_, pixels, words, background=False) == expected.numpy()).mean() > 0.99


def test_two_processes_share_the_photos(folder):
    """The counts of both shares together give the figures of one process."""
    labelled, counted = open_labelled(folder), []

    class Half(Team):
        def total(self, values):
            counted.append(values.clone())
            return values

    for rank in range(2):
        validate(network(), labelled, text=text(), team=Half(rank, 2, torch.device("cpu")))
    validate(network(), labelled, text=text(), team=Half(0, 1, torch.device("cpu")))
    assert torch.equal(counted[0] + counted[2], counted[4])
    assert torch.equal(counted[1] + counted[3], counted[5])
