"""What a batch teaches, against loops over pixels and words."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ovsdino.network.config import NANO
from ovsdino.network.head import cosine
from ovsdino.network.model import OVSDINO
from ovsdino.training.data.batch import OTHER, UNKNOWN, Batch, WeakBox
from ovsdino.training.data_recipe import NANO_DATA, DataRecipe
from ovsdino.training.systems.ovsdino_losses import batch_presence, guard, loss_terms

B, N, SIDE = 3, 5, 8
RECIPE = replace(NANO_DATA, size=64, balance=0.0, structure_target="none")
OPEN = DataRecipe(size=64, structure_target="none")


@pytest.fixture(scope="module")
def model() -> OVSDINO:
    torch.manual_seed(0)
    tiny = replace(NANO, name="tiny", image_size=64, position_grid=4, encoder_width=64, norm_groups=16)
    network = OVSDINO(tiny).eval()
    torch.nn.init.constant_(network.gate.alpha, 0.3)
    return network


def make_batch(**changes) -> Batch:
    draw = torch.Generator().manual_seed(1)
    labels = torch.randint(-2, N, (B, SIDE, SIDE), generator=draw)
    labels[1][labels[1] == 3] = UNKNOWN  # photo 1 must not be judged by word 3
    related = torch.zeros(N, N, dtype=torch.bool)
    related[0, 1] = related[1, 0] = True
    similar = torch.zeros(N, N, dtype=torch.bool)
    similar[2, 3] = similar[3, 2] = similar[1, 4] = similar[4, 1] = True
    valid = torch.ones(B, N, dtype=torch.bool)
    valid[1, 3] = False
    closed = torch.tensor([[True, True, True, True, False], [True, True, True, False, False], [False] * N])
    values = {
        "pixels": torch.randn(B, 3, 64, 64, generator=draw),
        "labels": labels,
        "pairs": torch.zeros(0, 2, dtype=torch.long),
        "masks": torch.zeros(0, SIDE, SIDE, dtype=torch.uint8),
        "ignore": None,
        "words": tuple("vwxyz"),
        "text": F.normalize(torch.randn(N, 384, generator=draw), dim=1),
        "valid": valid,
        "closed": closed,
        "related": related,
        "similar": similar,
        "boxes": (),
        "photos": ("a", "b", "c"),
    }
    values |= changes
    exclusive = torch.tensor([values["labels"] is not None] * B)
    return Batch(**({"exclusive": exclusive} | values))


def dense_similarity(model: OVSDINO, batch: Batch, side: int = SIDE) -> torch.Tensor:
    similarity = cosine(model(batch.pixels), batch.text)
    return F.interpolate(similarity, (side, side), mode="bilinear", align_corners=False).double()


def guarded(batch: Batch, photo: int, one: int, other: int) -> bool:
    told_apart = batch.closed[photo, one] and batch.closed[photo, other]
    return bool(batch.related[one, other]) or bool(batch.similar[one, other] and not told_apart)


def bce_and_dice(entries: dict[tuple[int, int], list[tuple[float, float]]]) -> tuple[float, float]:
    """The two terms from (logit, target) of each judged pixel of each photo and word."""
    flat = [pixel for pixels in entries.values() for pixel in pixels]
    bce = sum(math.log1p(math.exp(-s)) if t else math.log1p(math.exp(s)) for s, t in flat) / len(flat)
    terms = []
    for pixels in entries.values():
        if any(t for _, t in pixels):
            p = [1 / (1 + math.exp(-s)) for s, _ in pixels]
            both = sum(a for a, (_, t) in zip(p, pixels, strict=True) if t)
            terms.append(1 - (2 * both + 1) / (sum(p) + sum(t for _, t in pixels) + 1))
    return bce, sum(terms) / len(terms)


@pytest.mark.parametrize("balance", [0.0, 0.5, 2.0])
def test_labels_teach_what_a_loop_over_pixels_says(model, balance):
    batch = make_batch()
    with torch.no_grad():
        terms = loss_terms(model, batch, replace(RECIPE, balance=balance))
        dense = dense_similarity(model, batch)
        scale, bias = float(model.head.scale), float(model.head.bias)
    entries: dict[tuple[int, int], list[tuple[float, float]]] = {}
    crosses = []
    for b in range(B):
        for y in range(SIDE):
            for x in range(SIDE):
                label = int(batch.labels[b, y, x])
                rivals = []
                for n in range(N):
                    score = float(dense[b, n, y, x])
                    if not batch.valid[b, n]:
                        continue
                    if label >= 0 and not guarded(batch, b, label, n):
                        entries.setdefault((b, n), []).append((scale * score + bias, float(n == label)))
                        rivals.append(score / RECIPE.temperature)
                    if label == OTHER and batch.closed[b, n]:
                        entries.setdefault((b, n), []).append((scale * score + bias, 0.0))
                if label >= 0 and batch.valid[b, label]:
                    own = float(dense[b, label, y, x]) / RECIPE.temperature
                    crosses.append((label, math.log(sum(math.exp(r - own) for r in rivals))))
                elif label >= 0:
                    pytest.fail("a label's own word is always judged")
    bce, dice = bce_and_dice(entries)
    counts = Counter(label for label, _ in crosses)
    weights = {label: count**-balance for label, count in counts.items()}
    weights = {label: min(weight, 10 * min(weights.values())) for label, weight in weights.items()}
    mean = sum(weights[label] * loss for label, loss in crosses) / sum(weights[label] for label, _ in crosses)
    assert float(terms["cross_entropy"]) == pytest.approx(mean, rel=1e-4)
    assert float(terms["bce"]) == pytest.approx(bce, rel=1e-4)
    assert float(terms["dice"]) == pytest.approx(dice, rel=1e-4)
    assert terms.keys() == {"cross_entropy", "bce", "dice"}


@pytest.mark.parametrize("ignored", [False, True])
def test_pairs_teach_what_a_loop_over_pixels_says(model, ignored):
    draw = torch.Generator().manual_seed(2)
    side = 16
    pairs = torch.tensor([[0, 1], [0, 2], [2, 4]])
    masks = (torch.rand(3, side, side, generator=draw) > 0.6).to(torch.uint8)
    valid = torch.tensor(
        [[False, True, True, False, True], [True, False, False, True, False], [False] * 4 + [True]]
    )
    ignore = torch.rand(B, side, side, generator=draw) > 0.7 if ignored else None
    batch = make_batch(labels=None, pairs=pairs, masks=masks, valid=valid, ignore=ignore)
    with torch.no_grad():
        terms = loss_terms(model, batch, OPEN)
        dense = dense_similarity(model, batch, side)
        scale, bias = float(model.head.scale), float(model.head.bias)
    truth = {(int(b), int(n)): mask for (b, n), mask in zip(pairs, masks, strict=True)}
    entries: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for b in range(B):
        for n in range(N):
            if valid[b, n]:
                mask = truth.get((b, n), torch.zeros(side, side))
                for y in range(side):
                    for x in range(side):
                        if ignore is None or not ignore[b, y, x]:
                            logit = scale * float(dense[b, n, y, x]) + bias
                            entries.setdefault((b, n), []).append((logit, float(mask[y, x])))
    bce, dice = bce_and_dice(entries)
    assert terms.keys() == {"bce", "dice"}
    assert float(terms["bce"]) == pytest.approx(bce, rel=1e-4)
    assert float(terms["dice"]) == pytest.approx(dice, rel=1e-4)


def test_photos_of_both_kinds_count_by_their_number(model):
    labels = make_batch().labels.clone()
    labels[2] = UNKNOWN
    pairs, masks = torch.tensor([[2, 0]]), torch.ones(1, SIDE, SIDE, dtype=torch.uint8)
    exclusive = torch.tensor([True, True, False])
    both = make_batch(labels=labels, pairs=pairs, masks=masks, exclusive=exclusive)
    only_labels = make_batch(labels=labels)
    valid = torch.zeros(B, N, dtype=torch.bool)
    valid[2] = True
    only_pairs = make_batch(labels=None, pairs=pairs, masks=masks, valid=valid)
    with torch.no_grad():
        mixed, first, second = (loss_terms(model, b, RECIPE) for b in (both, only_labels, only_pairs))
    labels[1] = UNKNOWN  # an exclusive photo of which nothing is known must not be taken for an empty one
    unknown, known = make_batch(labels=labels, exclusive=exclusive), make_batch(labels=labels)
    with torch.no_grad():
        rest = loss_terms(model, replace(unknown, pairs=pairs, masks=masks), RECIPE)
        alone = loss_terms(model, known, RECIPE)
    assert float(rest["bce"]) == pytest.approx((2 * float(alone["bce"]) + float(second["bce"])) / 3, rel=1e-5)
    for name in ("bce", "dice"):
        expected = (2 * float(first[name]) + float(second[name])) / 3
        assert float(mixed[name]) == pytest.approx(expected, rel=1e-5)
    assert float(mixed["cross_entropy"]) == pytest.approx(float(first["cross_entropy"]), rel=1e-6)


def test_a_road_is_told_from_a_sidewalk_but_not_from_its_synonyms(model):
    """Words 2 and 3 are alike: photo 0 closes both, photo 2 none. Words 0 and 1 are synonyms."""
    batch = make_batch()
    flags = guard(batch)
    assert not flags[0, 2, 3]
    assert flags[2, 2, 3]
    assert flags[:, 0, 1].all()
    assert not flags[:, 0, 2].any()
    labels = torch.full((B, SIDE, SIDE), UNKNOWN)
    labels[0] = 2

    def gradient(where: int, label: int) -> torch.Tensor:
        labels = torch.full((B, SIDE, SIDE), UNKNOWN)
        labels[where] = label
        text = batch.text.clone().requires_grad_()
        terms = loss_terms(model, replace(batch, labels=labels, text=text), RECIPE)
        (terms["cross_entropy"] + terms["bce"] + terms["dice"]).backward()
        return text.grad.norm(dim=1)

    assert gradient(0, 2)[3] > 1e-4
    assert gradient(2, 2)[3] < 1e-9
    assert gradient(0, 0)[1] < 1e-9
    assert gradient(0, 0)[4] > 1e-6


def test_a_weak_word_competes_in_its_box_with_words_that_the_photo_lacks(model):
    labels = torch.full((B, SIDE, SIDE), UNKNOWN)
    labels[0, :2] = 4  # word 4 is present in photo 0
    boxes = (WeakBox(0, 2, (0.0, 0.25, 0.75, 1.0)), WeakBox(1, 0, (0.9, 0.9, 1.0, 1.0)))
    batch = make_batch(labels=labels, boxes=boxes)
    with torch.no_grad():
        term = float(loss_terms(model, batch, RECIPE)["weak"])
        similarity = cosine(model(batch.pixels), batch.text)  # (B, N, 4, 4)

    def expected(photo: int, word: int, rows: slice, columns: slice, rivals: list[int]) -> float:
        patch = similarity[photo, :, rows, columns].flatten(1)
        count = max(1, int(0.25 * patch.shape[1]))
        best = [float(row.sort(descending=True).values[:count].mean()) / 0.05 for row in patch]
        return math.log(sum(math.exp(best[n] - best[word]) for n in [word, *rivals]))

    # Photo 0: 4 is present; 3 is alike, but both are closed. Photo 1: 1 is a synonym, 3 must not be judged.
    first = expected(0, 2, slice(1, 4), slice(0, 3), [0, 1, 3])
    second = expected(1, 0, slice(3, 4), slice(3, 4), [2, 4])
    assert term == pytest.approx((first + second) / 2, rel=1e-4)


def test_presence_counts_masks_and_labels():
    labels = torch.full((B, SIDE, SIDE), OTHER)
    labels[1, 0, 0], labels[1, 0, 1] = 4, UNKNOWN
    batch = make_batch(labels=labels, pairs=torch.tensor([[2, 1]]), masks=torch.ones(1, SIDE, SIDE))
    expected = torch.zeros(B, N, dtype=torch.bool)
    expected[1, 4] = expected[2, 1] = True
    assert torch.equal(batch_presence(batch), expected)


@pytest.mark.parametrize("labels", [None, torch.full((B, SIDE, SIDE), UNKNOWN)])
def test_a_batch_that_says_nothing_teaches_nothing(model, labels):
    batch = make_batch(labels=labels, valid=torch.zeros(B, N, dtype=torch.bool))
    model.zero_grad()
    total = sum(loss_terms(model, batch, RECIPE).values())
    total.backward()
    assert float(total.detach()) == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


def test_alignment_compares_the_encoder_s_map_with_the_target(model):
    recipe = replace(OPEN, structure_target="sam")
    batch = make_batch(teacher=torch.randn(B, 128, 8, 8, generator=torch.Generator().manual_seed(3)).half())
    with torch.no_grad():
        terms = loss_terms(model, batch, recipe)
        structure = model.encode(batch.pixels).structure
    teacher = batch.teacher.float()
    angles = [
        float(F.normalize(structure[b, :, y, x], dim=0) @ F.normalize(teacher[b, :, y, x], dim=0))
        for b in range(B)
        for y in range(8)
        for x in range(8)
    ]
    assert float(terms["align_cosine"]) == pytest.approx(1 - sum(angles) / len(angles), rel=1e-5)
    assert float(terms["align_mse"]) == pytest.approx(float((structure - teacher).square().mean()), rel=1e-5)
    cheap = loss_terms(model, batch, replace(OPEN, structure_target="gradients"))
    assert {"align_cosine", "align_mse"} <= cheap.keys()


def test_without_an_encoder_the_teacher_takes_its_place(model):
    bare = OVSDINO(replace(model.config, encoder=False)).eval()
    bare.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith("structure_encoder")}
    )
    batch = make_batch(teacher=torch.randn(B, 128, 8, 8).half())
    recipe = replace(OPEN, structure_target="sam")
    with torch.no_grad():
        terms = loss_terms(bare, batch, recipe)
        features = bare(batch.pixels, batch.teacher.float())
        logits = bare.head(features, batch.text)
    assert terms.keys() == {"cross_entropy", "bce", "dice"}
    assert torch.isfinite(logits).all()
    with torch.no_grad():
        given = loss_terms(bare, replace(batch, teacher=torch.randn(B, 128, 8, 8).half()), recipe)
    assert float(given["bce"]) != float(terms["bce"])
