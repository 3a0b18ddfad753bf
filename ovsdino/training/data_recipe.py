"""Settings of training batches and loss weights, and those of `nano`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataRecipe:
    """Settings of training samples and batches. The defaults are the paper's, or our reconstruction.

    Raises:
        ValueError: a number is invalid; the message names valid values.
    """

    size: int = 448  # [px] side of the training square
    seed: int = 0

    # Reconstructed: the crop. "resized": a square of crop_scale of the largest square's area. "zoom" (nano):
    # a square of the photo zoomed so that its short side is between size and largest.
    crop: Literal["resized", "zoom"] = "resized"
    crop_scale: tuple[float, float] = (0.5, 1.0)
    largest: int = 640  # [px]
    crops: int = 0  # different crops that a photo has in all epochs; 0: a new one each time
    flip: float = 0.5  # probability of the mirror image
    jitter: tuple[float, float, float, float] = (0, 0, 0, 0)  # brightness, contrast, saturation, hue
    colours: Literal["jitter", "ssd"] = "jitter"  # "ssd": each change by chance, as SSD's and CAT-Seg's

    # Reconstructed: the words of a photo.
    label_stride: int = 1  # [px] between the pixels on which logits and masks are compared
    positives: int = 16  # most masks of a photo that one sample carries
    negatives: int = 24  # words of the batch's other photos that a photo surely lacks
    distractors: int = 0  # nouns drawn from all that are known, that join each batch
    listed_distractors: int = (
        0  # words drawn from the masks' own list (distractors.json) that join each batch
    )
    draw_synonyms: bool = False  # call a noun by any of its names, drawn for each batch
    similar: float | None = None  # cosine of two nouns above which neither is the other's negative
    words: Literal["drawn", "all"] = "drawn"  # of a batch: those in its squares and drawn ones, or all nouns
    decoded: int = 0  # most of a batch's words that dinov3.seg refines late and decodes; 0: all
    one_hot: bool = False  # every word is judged at every pixel, at those of which nothing is said as absent

    # Beyond the paper, for masks that partition the photo and for words without a mask.
    temperature: float = 0.05  # of the softmax over the batch's words
    balance: float = 0.0  # a word of n pixels weighs n ** -balance in the cross-entropy
    weak_words: int = 0  # most words without a mask that one sample carries
    weak_top: float = 0.25  # share of its box that a word without a mask must win
    shares: tuple[
        tuple[str, float], ...
    ] = ()  # folder of photos -> how often each one is drawn; the longest counts

    dice_smoothing: float = 1.0  # [px] reconstructed: added to numerator and denominator of Dice
    structure_target: Literal["sam", "hed", "gradients", "none"] = "sam"  # of the SAE's output
    view: int = 1024  # [px] reconstructed: side at which SAM reads the square, its own size

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(
                f"crop_scale must be two shares with 0 < low <= high <= 1, got {self.crop_scale}"
            )
        if self.label_stride < 1 or self.size % self.label_stride:
            raise ValueError(f"label_stride must divide size={self.size}, got {self.label_stride}")
        if self.crop == "zoom" and self.largest < self.size:
            raise ValueError(f"largest must be at least size={self.size}, got {self.largest}")
        counts = ("crops", "negatives", "distractors", "listed_distractors", "weak_words", "decoded")
        for name in counts:
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.positives < 1:
            raise ValueError(f"positives must be at least 1, got {self.positives}")
        for name in ("flip", "weak_top"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in 0..1, got {getattr(self, name)}")
        if self.temperature <= 0:
            raise ValueError(f"temperature must be positive, got {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class LossWeights:
    """The weight of each loss term.

    Source: OVS-DINO, eq. 12, 15 and 16. The paper gives no coefficients, so all are 1 (reconstructed); the
        last
    two terms are ours and off by default.
    """

    align_cosine: float = 1.0  # eq. 10
    align_mse: float = 1.0  # eq. 11
    dice: float = 1.0  # eq. 15
    bce: float = 1.0  # eq. 15
    cross_entropy: float = 0.0  # over the batch's words, where masks partition a photo; of dinov3.seg's costs
    weak: float = 0.0  # of words without a mask

    @property
    def align(self) -> bool:
        """Tell whether a structural target is needed."""
        return self.align_cosine > 0 or self.align_mse > 0


NANO_DATA = DataRecipe(
    size=288,
    crop="zoom",
    largest=640,
    jitter=(0.3, 0.3, 0.3, 0.03),
    label_stride=8,
    distractors=64,
    draw_synonyms=True,
    similar=0.62,
    balance=0.5,
    weak_words=4,
    shares=(
        ("voc", 1.5),
        ("coco", 2.0),
        ("imagenet", 1.0),
        ("mixed", 1.6),
        ("camvid", 1.5),
        ("facade", 0.7),
        ("street", 0.7),
        ("bsds", 1.2),
    ),
    structure_target="none",
)
NANO_WEIGHTS = LossWeights(align_cosine=0.0, align_mse=0.0, dice=0.5, bce=2.0, cross_entropy=1.0, weak=0.1)

# CAT-Seg's, in the place of what dinov3.seg does not say: all 171 classes of COCO-Stuff at every pixel.
DINOV3SEG_DATA = DataRecipe(
    size=384,
    crop="zoom",  # the short side becomes 384 px, then a square of 384 px
    largest=384,
    colours="ssd",
    words="all",
    one_hot=True,
    structure_target="none",
)
DINOV3SEG_WEIGHTS = LossWeights(align_cosine=0.0, align_mse=0.0, dice=0.0, bce=1.0)

DINOV3SEG_TINY_DATA = DataRecipe(
    size=224,
    crop="zoom",
    largest=448,
    jitter=NANO_DATA.jitter,
    label_stride=4,
    distractors=64,
    draw_synonyms=True,
    decoded=12,
    balance=0.5,
    shares=NANO_DATA.shares,
    structure_target="none",
)
DINOV3SEG_TINY_WEIGHTS = LossWeights(align_cosine=0.0, align_mse=0.0, dice=0.0, bce=1.0, cross_entropy=1.0)
