"""Grounding DINO and SAM, random but real, against their own libraries' and slow references."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from ovsdino.masks.errors import MaskError
from ovsdino.masks.nouns.nouns import PhotoNouns
from ovsdino.masks.teachers.grounded_sam import GroundedSamOptions
from ovsdino.masks.teachers.grounding import BoxThresholds, choose_boxes, open_grounding_dino
from ovsdino.masks.teachers.sam import BoxMasks, build_sam, load_sam, read_shape
from ovsdino.network.checkpoint import CheckpointError
from ovsdino_runtime.base.photo import load_photo

NOUNS = ("cat", "tennis racket", "man")


@pytest.fixture
def photo(photos):
    return load_photo(photos / "a.jpg")  # (40, 48, 3)


def test_boxes_and_scores_are_the_librarys(detector, photo):
    """The library's own post-processing, whose phrases are of any tokens, finds the same best boxes."""
    finder = open_grounding_dino(str(detector), BoxThresholds(box=0.3, text=0.0, nms_iou=1.0), "cpu")
    text = "cat. tennis racket. man."
    inputs = finder.processor(images=Image.fromarray(photo), text=text, return_tensors="pt")
    with torch.inference_mode():
        outputs = finder.model(**inputs)
    result = finder.processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=0.3, text_threshold=0.0, target_sizes=[(40, 48)]
    )[0]
    tokens = finder.processor.tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    mine = {found.noun: found for found in finder(photo, NOUNS)}
    for noun in NOUNS:
        places = [tokens.index(word) for word in noun.split()]
        scores = outputs.logits[0].sigmoid()[:, places].amax(1)
        expected = scores[scores > 0.3].sort(descending=True).values
        assert noun in mine or not len(expected)
        if noun in mine:
            torch.testing.assert_close(mine[noun].scores, expected)
            corners = {tuple(box) for box in result["boxes"].clamp(min=0).round(decimals=2).tolist()}
            for box in mine[noun].boxes:
                fits = [all(abs(a - b) < 0.02 for a, b in zip(box.tolist(), c, strict=True)) for c in corners]
                assert any(fits) or box[2] == 48 or box[3] == 40  # clipped


def official_script(finder, photo, nouns, rules):
    """``get_grounding_output`` and the suppression after it, in the script's order."""
    caption = ", ".join(nouns).lower().strip() + "."
    inputs = finder.processor(images=Image.fromarray(photo), text=caption, return_tensors="pt")
    with torch.inference_mode():
        outputs = finder.model(**inputs)
    logits, boxes = outputs.logits[0].sigmoid(), outputs.pred_boxes[0].clone()  # (nq, 256), (nq, 4)
    keep = logits.max(dim=1)[0] > rules.box
    logits, boxes = logits[keep], boxes[keep]
    tokenizer = finder.processor.tokenizer
    ids = tokenizer(caption)["input_ids"]
    phrases, scores = [], []
    for logit in logits:
        posmap = logit > rules.text
        posmap[0:1] = False
        posmap[255:] = False
        chosen = [ids[i] for i in posmap.nonzero(as_tuple=True)[0].tolist()]
        phrases.append(tokenizer.decode(chosen))
        scores.append(logit.max().item())
    height, width = photo.shape[:2]
    for i in range(len(boxes)):
        boxes[i] = boxes[i] * torch.tensor([width, height, width, height])
        boxes[i][:2] -= boxes[i][2:] / 2
        boxes[i][2:] += boxes[i][:2]
    kept = torchvision.ops.nms(boxes, torch.tensor(scores), rules.nms_iou).tolist()
    return [(phrases[i], scores[i], boxes[i]) for i in kept]


def without_marks(phrase):
    """Drop what is no part of a noun; the small tokenizer has no comma, so that it reads [UNK] there."""
    words = phrase.replace("[SEP]", "").replace("[UNK]", "").split()
    return " ".join(words).strip(" .,")


def test_the_scripts_selection_is_the_scripts(detector, photo):
    """Thresholds lie among the random network's probabilities: names are parts and mixtures of nouns."""
    finder = open_grounding_dino(str(detector), BoxThresholds(), "cpu", selection="script")
    with torch.inference_mode():
        _, probabilities, _ = finder._detect(photo, "cat, tennis racket, man.")
    text = float(probabilities[probabilities > 0].median())
    box = float(probabilities.amax(1).median())
    finder.thresholds = rules = BoxThresholds(box, text, 0.7)
    expected = official_script(finder, photo, NOUNS, rules)
    names = [without_marks(phrase) for phrase, _, _ in expected]
    found = finder(photo, NOUNS)
    assert {boxes.noun for boxes in found} == set(names) - {""}
    assert any(name not in NOUNS for name in names)  # what our own rule never gives
    for boxes in found:
        rows = [row for name, row in zip(names, expected, strict=True) if name == boxes.noun]
        torch.testing.assert_close(boxes.scores, torch.tensor([score for _, score, _ in rows]))
        torch.testing.assert_close(boxes.boxes, torch.stack([corner for _, _, corner in rows]))


def test_the_selection_is_part_of_what_masks_depend_on(detector, sam_file):
    assert options(detector, sam_file).describe()["selection"] == "noun"
    assert options(detector, sam_file, selection="script").open().boxes.selection == "script"


def test_one_noun_at_a_time_gets_its_own_tokens(detector, photo):
    finder = open_grounding_dino(str(detector), BoxThresholds(0, 0, 1.0), "cpu")
    text = "cat. tennis racket. man."
    tokens = finder.processor.tokenizer.convert_ids_to_tokens(finder.processor.tokenizer(text)["input_ids"])
    found = finder._tokens(text, NOUNS)
    assert [[tokens[place] for place in places] for places in found] == [
        ["cat"],
        ["tennis", "racket"],
        ["man"],
    ]


def test_more_nouns_than_fit_are_asked_in_several_prompts(detector, photo):
    finder = open_grounding_dino(str(detector), BoxThresholds(0, 0, 1.0), "cpu")
    finder.model.config.max_text_len = 8
    nouns = ("tennis racket", "cat", "man", "dog", "grass")
    prompts = finder._prompts(nouns)
    assert len(prompts) > 1
    assert sum(prompts, ()) == nouns
    for prompt in prompts:
        text = " ".join(f"{noun}." for noun in prompt)
        assert len(finder.processor.tokenizer(text)["input_ids"]) <= 8


def slow_choice(boxes, probabilities, rules):
    """The rule of `choose_boxes`, a box at a time."""
    order = sorted(range(len(boxes)), key=lambda i: -max(probabilities[i]))
    kept = []
    for i in order:
        left, top, right, bottom = boxes[i]
        if max(probabilities[i]) <= rules.box or min(probabilities[i]) <= rules.text:
            continue
        if right - left < 1 or bottom - top < 1:
            continue
        if all(overlap(boxes[i], boxes[j]) <= rules.nms_iou for j in kept):
            kept.append(i)
    return kept


def overlap(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(0, width) * max(0, height)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.mark.parametrize("rules", [BoxThresholds(), BoxThresholds(0.6, 0.1, 0.2), BoxThresholds(0, 0, 1)])
def test_boxes_are_chosen_as_a_slow_loop_does(rules):
    random = torch.Generator().manual_seed(0)
    first = torch.rand(60, 2, generator=random) * 30
    boxes = torch.cat([first, first + torch.rand(60, 2, generator=random) * 20], 1)
    probabilities = torch.rand(60, 3, generator=random)
    kept = slow_choice(boxes.tolist(), probabilities.tolist(), rules)
    chosen, scores = choose_boxes(boxes, probabilities, rules)
    torch.testing.assert_close(chosen, boxes[kept])
    torch.testing.assert_close(scores, probabilities[kept].amax(1))


def test_masks_are_those_of_sams_own_predictor(sam_file, photo):
    from segment_anything import SamPredictor

    sam = load_sam(sam_file)
    boxes = torch.tensor([[2.0, 3.0, 30.0, 20.0], [10.0, 5.0, 47.0, 39.0], [0.0, 0.0, 8.0, 8.0]])
    masks = BoxMasks(sam)(photo, boxes)
    predictor = SamPredictor(sam)
    predictor.set_image(photo)
    for box, mask in zip(boxes, masks, strict=True):
        expected, _, _ = predictor.predict(box=box.numpy(), multimask_output=False)
        np.testing.assert_array_equal(mask, expected[0])
    assert any(mask.any() and not mask.all() for mask in masks)


@pytest.mark.parametrize("size", ["vit_b", "vit_l", "vit_h"])
def test_the_official_networks_are_read_from_their_tensors(size):
    """Every size of the library's own registry: same keys, same shapes, no number assumed."""
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        official = sam_model_registry[size]()
    state = official.state_dict()
    shape = read_shape(state)
    encoder = official.image_encoder
    assert shape.global_blocks == tuple(i for i, block in enumerate(encoder.blocks) if not block.window_size)
    assert (shape.image_size, shape.window, shape.heads) == (1024, 14, encoder.blocks[0].attn.num_heads)
    mine = build_sam(shape)
    assert {name: t.shape for name, t in mine.state_dict().items()} == {n: t.shape for n, t in state.items()}
    torch.testing.assert_close(mine.pixel_mean, torch.tensor([123.675, 116.28, 103.53]).view(3, 1, 1))
    torch.testing.assert_close(mine.pixel_std, torch.tensor([58.395, 57.12, 57.375]).view(3, 1, 1))


def test_a_checkpoint_of_something_else_is_refused(sam_file, tmp_path):
    state = torch.load(sam_file, weights_only=True)
    name = "mask_decoder.iou_token.weight"
    cases = {
        "other.pth": {"weight": torch.zeros(2)},
        "short.pth": {key: value for key, value in state.items() if key != name},
        "more.pth": {**state, "extra": torch.zeros(1)},
    }
    for file, content in cases.items():
        torch.save(content, tmp_path / file)
        with pytest.raises(MaskError, match=f"{file}: not SAM's checkpoint .*get it: curl"):
            load_sam(tmp_path / file)
    (tmp_path / "cut.pth").write_bytes(sam_file.read_bytes()[:500])
    with pytest.raises(MaskError, match=r"cut.pth: .*get it"):
        load_sam(tmp_path / "cut.pth")


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda value: value * float("nan"), "values that are not finite"),
        (lambda value: value > 0, r"floating-point numbers, got .* torch\.bool"),
        (lambda value: value.to(torch.complex64), r"is torch\.complex64"),
    ],
)
def test_a_checkpoint_with_values_that_cannot_be_weights_is_refused(sam_file, tmp_path, damage, why):
    state = torch.load(sam_file, weights_only=True)
    name = "image_encoder.neck.0.weight"
    torch.save({**state, name: damage(state[name])}, tmp_path / "sam.pth")
    with pytest.raises(CheckpointError, match=f"sam.pth: .*{why}"):
        load_sam(tmp_path / "sam.pth")


def test_a_checkpoint_in_half_precision_is_read_as_fp32(sam_file, tmp_path):
    state = {name: value.half() for name, value in torch.load(sam_file, weights_only=True).items()}
    torch.save(state, tmp_path / "half.pth")
    assert {value.dtype for value in load_sam(tmp_path / "half.pth").state_dict().values()} == {torch.float32}


def test_a_missing_network_is_named_with_its_command(tmp_path, detector):
    url = "https://dl.fbaipublicfiles.com/segment_anything/sam_vit_b_01ec64.pth"
    with pytest.raises(MaskError, match=re.escape(f"curl -L -o {tmp_path}/sam_vit_b_01ec64.pth {url}")):
        load_sam(tmp_path / "sam_vit_b_01ec64.pth")
    with pytest.raises(MaskError, match="get it: hf download IDEA-Research/no-such-model"):
        open_grounding_dino("IDEA-Research/no-such-model", BoxThresholds(), "cpu")
    shutil.copytree(detector, tmp_path / "dino")
    (tmp_path / "dino" / "model.safetensors").unlink()
    with pytest.raises(MaskError, match=r"model.safetensors.*hf download IDEA-Research/grounding-dino-tiny"):
        open_grounding_dino(str(tmp_path / "dino"), BoxThresholds(), "cpu")


def test_weights_that_do_not_fit_the_detector_are_refused(detector, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(detector, tmp_path / "dino")
    state = load_file(folder / "model.safetensors")
    state.pop("model.level_embed")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(MaskError, match=r"do not fit Grounding DINO \(missing_keys: model.level_embed\)"):
        open_grounding_dino(str(folder), BoxThresholds(), "cpu")


def options(detector, sam_file, **changes):
    given = {"thresholds": BoxThresholds(0.3, 0.1, 0.5), **changes}
    return GroundedSamOptions(detector=str(detector), sam=sam_file, **given)


def test_a_nouns_mask_is_the_union_of_its_boxes(detector, sam_file, photo):
    source = options(detector, sam_file).open()
    made = source(photo, PhotoNouns("a.jpg", NOUNS, ("photo", "red")))
    assert made.regions
    found = {one.noun: one for one in source.boxes(photo, NOUNS)}
    for region in made.regions:
        union = np.zeros((40, 48), bool)
        for mask in source.masks(photo, found[region.noun].boxes):
            union |= mask
        np.testing.assert_array_equal(region.rle.decode(), union)
        assert region.score == pytest.approx(float(found[region.noun].scores.max()), abs=1e-4)
    named = {region.noun for region in made.regions}
    assert set(made.absent) == ({*NOUNS, "photo", "red"} - named)
    assert (made.height, made.width, made.exclusive, made.closed) == (40, 48, False, ())


def test_small_masks_are_dropped_and_remembered(detector, sam_file, photo):
    task = PhotoNouns("a.jpg", NOUNS, ())
    areas = {r.noun: r.rle.decode().mean() for r in options(detector, sam_file).open()(photo, task).regions}
    minimum = float(np.median(list(areas.values())))
    made = options(detector, sam_file, min_area=minimum).open()(photo, task)
    assert {r.noun for r in made.regions} == {noun for noun, area in areas.items() if area >= minimum}
    assert set(made.absent) == set(NOUNS) - {r.noun for r in made.regions}


def test_a_photo_without_nouns_or_boxes_has_no_regions(detector, sam_file, photo):
    assert options(detector, sam_file).open()(photo, PhotoNouns("a.jpg", (), ("photo",))).regions == ()
    sure = options(detector, sam_file, thresholds=BoxThresholds(1.0, 0.1, 0.5)).open()
    made = sure(photo, PhotoNouns("a.jpg", ("cat",), ()))
    assert (made.regions, made.absent) == ((), ("cat",))


def test_what_is_recorded_tells_two_runs_apart(detector, sam_file):
    first = options(detector, sam_file).describe()
    assert json.loads(json.dumps(first)) == first
    assert options(detector, sam_file, min_area=0.01).describe() != first
