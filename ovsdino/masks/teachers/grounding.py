"""Grounding DINO: boxes for the nouns of a photo."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor
from torchvision.ops import box_convert, clip_boxes_to_image, nms, remove_small_boxes

from ovsdino.masks.errors import MaskError
from ovsdino.network.checkpoint import check_values
from ovsdino_runtime.geometry.types import Photo

if TYPE_CHECKING:
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

MIN_SIDE = 1.0  # [px] a box with a shorter side holds nothing
SEPARATORS = " .,"  # of nouns in a prompt

Selection = Literal["noun", "script"]


@dataclass(frozen=True)
class BoxThresholds:
    """Thresholds for boxes. Source of defaults: Grounded-Segment-Anything, ``automatic_label_demo.py``."""

    box: float = 0.25  # probability that a box's best token must exceed
    text: float = 0.20  # noun: that each of the noun's tokens must exceed; script: that names a box
    nms_iou: float = 0.5  # of two boxes that overlap more, the better one stays: of a noun, or of all


@dataclass(frozen=True)
class NounBoxes:
    """A noun's boxes, the best one first."""

    noun: str
    boxes: Tensor  # (n, 4) left, top, right, bottom [px]
    scores: Tensor  # (n,) in (0, 1)


class GroundingDino:
    """Find the boxes of nouns in a photo.

    OVS-DINO does not describe how boxes are selected. There are two rules:

    - ``noun``, our reconstruction: a box belongs to a noun if the noun's best token exceeds the box threshold
      and all of its tokens exceed the text threshold. A box may belong to two nouns; overlapping boxes are
      suppressed for each noun by itself.
    - ``script``, as in the public script: a box is kept if any token of the prompt exceeds the box threshold,
      its name consists of all tokens above the text threshold, and overlapping boxes are suppressed across
      all names. A name may be part of one or several nouns. Choose it to reproduce masks of that script.

    Source of ``script``: IDEA-Research/Grounded-Segment-Anything, ``automatic_label_demo.py:
    get_grounding_output``; IDEA-Research/GroundingDINO, ``util/utils.py: get_phrases_from_posmap``.
    """

    def __init__(
        self,
        model: GroundingDinoForObjectDetection,
        processor: GroundingDinoProcessor,
        *,
        thresholds: BoxThresholds,
        selection: Selection = "noun",
    ) -> None:
        self.model, self.processor = model, processor
        self.thresholds, self.selection = thresholds, selection

    @torch.inference_mode()
    def __call__(self, photo: Photo, nouns: tuple[str, ...]) -> list[NounBoxes]:
        """Find the boxes of nouns; nouns without a box are left out. Shape: photo (H, W, 3) RGB."""
        prompts = self._prompts(nouns)
        return (
            self._by_script(photo, prompts) if self.selection == "script" else self._by_noun(photo, prompts)
        )

    def _by_noun(self, photo: Photo, prompts: list[tuple[str, ...]]) -> list[NounBoxes]:
        boxes_of_nouns = []
        for prompt in prompts:
            text = " ".join(f"{noun}." for noun in prompt)
            boxes, probabilities, _ = self._detect(photo, text)
            boxes = corners(boxes, photo.shape[0], photo.shape[1])
            for noun, tokens in zip(prompt, self._tokens(text, prompt), strict=True):
                chosen = choose_boxes(boxes, probabilities[:, tokens], self.thresholds)
                if len(chosen[0]):
                    boxes_of_nouns.append(NounBoxes(noun, *chosen))
        return boxes_of_nouns

    def _by_script(self, photo: Photo, prompts: list[tuple[str, ...]]) -> list[NounBoxes]:
        scale = torch.tensor([photo.shape[1], photo.shape[0]] * 2)
        boxes, scores, names = [], [], []
        for prompt in prompts:  # the script has one: it cuts what does not fit
            centres, probabilities, ids = self._detect(photo, ", ".join(prompt).lower().strip() + ".")
            sure = probabilities.amax(1) > self.thresholds.box
            boxes.append(box_convert(centres[sure].cpu() * scale, "cxcywh", "xyxy"))
            scores.append(probabilities[sure].amax(1).cpu())
            names += [self._phrase(row > self.thresholds.text, ids) for row in probabilities[sure]]
        if not names:
            return []
        everything, score = torch.cat(boxes), torch.cat(scores)
        kept = [i for i in nms(everything, score, self.thresholds.nms_iou).tolist() if names[i]]
        rows = {name: [i for i in kept if names[i] == name] for name in dict.fromkeys(names[i] for i in kept)}
        return [NounBoxes(name, everything[chosen], score[chosen]) for name, chosen in rows.items()]

    def _detect(self, photo: Photo, text: str) -> tuple[Tensor, Tensor, Tensor]:
        """Run the network: boxes (n, 4), centres and sizes in 0..1; probabilities (n, T); token ids (T',)."""
        from PIL import Image

        inputs = self.processor(images=Image.fromarray(photo), text=text, return_tensors="pt")
        inputs = inputs.to(self.model.device)
        outputs = self.model(**inputs)
        return outputs.pred_boxes[0].float(), outputs.logits[0].float().sigmoid(), inputs["input_ids"][0]

    def _phrase(self, named: Tensor, ids: Tensor) -> str:
        """Decode the tokens that name a box, without [CLS] and the nouns' separators. Shape: named (T,)."""
        named = named[: len(ids)].clone()
        named[0] = False
        decoded: str = self.processor.tokenizer.decode(ids[named.to(ids.device)], skip_special_tokens=True)
        return decoded.strip(SEPARATORS)

    def _prompts(self, nouns: tuple[str, ...]) -> list[tuple[str, ...]]:
        """Split nouns into prompts that the text encoder can hold."""
        prompts: list[list[str]] = []
        room = 0
        for noun in nouns:
            length = len(self.processor.tokenizer.tokenize(f"{noun}."))
            if length > room:
                prompts.append([])
                room = int(self.model.config.max_text_len) - 2  # [CLS] and [SEP]
            prompts[-1].append(noun)
            room -= length
        return [tuple(prompt) for prompt in prompts]

    def _tokens(self, text: str, nouns: tuple[str, ...]) -> list[list[int]]:
        """Return the token positions of each noun in a prompt."""
        encoded = self.processor.tokenizer(text, return_offsets_mapping=True)
        places, start = [], 0
        for noun in nouns:
            end = start + len(noun)
            spans = enumerate(encoded["offset_mapping"])
            places.append([i for i, (left, right) in spans if start <= left < right <= end])
            start = end + 2  # the full stop and the space
        return places


def corners(boxes: Tensor, height: int, width: int) -> Tensor:
    """Convert centres and sizes in 0..1 to corners [px] inside the photo: (n, 4) -> (n, 4)."""
    scale = boxes.new_tensor([width, height, width, height])
    clipped: Tensor = clip_boxes_to_image(box_convert(boxes, "cxcywh", "xyxy") * scale, (height, width))
    return clipped


def choose_boxes(boxes: Tensor, probabilities: Tensor, thresholds: BoxThresholds) -> tuple[Tensor, Tensor]:
    """Choose the boxes of one noun.

    Args:
        boxes: corners [px]. Shape: (n, 4).
        probabilities: probabilities of the noun's tokens. Shape: (n, tokens).
        thresholds: thresholds for boxes.

    Returns:
        Boxes (k, 4) and scores (k,), the best one first.
    """
    scores = probabilities.amax(1)
    sure = (scores > thresholds.box) & (probabilities.amin(1) > thresholds.text)
    boxes, scores = boxes[sure], scores[sure]
    large = remove_small_boxes(boxes, MIN_SIDE)
    boxes, scores = boxes[large], scores[large]
    kept = nms(boxes, scores, thresholds.nms_iou)
    return boxes[kept].cpu(), scores[kept].cpu()


def open_grounding_dino(
    name: str, thresholds: BoxThresholds, device: str, *, selection: Selection = "noun"
) -> GroundingDino:
    """Load Grounding DINO from a folder, or from the local cache of the Hugging Face hub; no network.

    Raises:
        MaskError: a file is missing, or the weights belong to another network; the message holds the command
            that downloads them.
        CheckpointError: the file contains values that are not weights.
    """
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor
    from transformers.utils import logging

    quiet: Callable[[], None] = logging.disable_progress_bar
    quiet()  # its own bar stands beside ours
    local = Path(name).is_dir()
    get = (
        f"hf download IDEA-Research/grounding-dino-tiny --local-dir {name}"
        if local
        else f"hf download {name}"
    )
    try:
        processor = GroundingDinoProcessor.from_pretrained(name, local_files_only=True)
        loaded: Any = GroundingDinoForObjectDetection.from_pretrained(
            name, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        why = " ".join(str(error).split())[:200]
        raise MaskError(f"{name}: no Grounding DINO there ({why}); get it: {get}") from error
    model, report = loaded
    wrong = {what: sorted(map(str, keys)) for what, keys in report.items() if keys}
    if wrong:
        what, keys = next(iter(wrong.items()))
        raise MaskError(f"{name}: weights do not fit Grounding DINO ({what}: {keys[0]}); get them: {get}")
    check_values(model.state_dict(), Path(name))
    return GroundingDino(model.eval().to(device), processor, thresholds=thresholds, selection=selection)
