"""The manifest of a bundle, ``bundle.json``: everything that the runtime knows about a model."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.bundle.kernels import Kernel
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.refine import Refinement
from ovsdino_runtime.geometry.windows import WindowPolicy

SCHEMA_VERSION = 2  # 2: the manifest carries a digest of itself
MAX_SIDE = 8192  # [px] of windows and resized photos: more is a damaged or hostile manifest
MAX_WINDOW = 4096  # [px]
MAX_FILES = 1000
MAX_TEMPLATES = 1000
MAX_TEMPLATE = 1000  # characters
MAX_OVERLAP = 16  # windows over a pixel, along one side

GraphName = Literal[
    "vision",
    "vision.fp16",
    "vision.bf16",
    "vision.int8",
    "whole",
    "whole.fp16",
    "guidance",
    "guidance.fp16",
    "refine",
    "refine.fp16",
    "late",
    "late.fp16",
    "decoder",
    "decoder.fp16",
    "projection",  # only where the text graph gives features that are averaged first
    "text",
]
GRAPHS: tuple[GraphName, ...] = get_args(GraphName)  # the first and the last are in every bundle
DINOV3SEG_STAGES = ("whole", "guidance", "refine", "late", "decoder")  # only where `Manifest.dinov3seg` is


@dataclass(frozen=True)
class Head:
    """The cosine head: ``logit = scale * cosine + bias``; ``sigmoid(logit)`` is the confidence."""

    scale: float  # > 0
    bias: float
    background: float  # default threshold in 0..1: a pixel whose best confidence is below it is background

    def __post_init__(self) -> None:
        """Reject a scale that would reverse the order of classes, and thresholds outside 0..1.

        Raises:
            ValueError: the scale is not positive or the threshold not in 0..1.
        """
        if self.scale <= 0:
            raise ValueError(f"scale must be positive, got {self.scale}")
        if not 0 <= self.background <= 1:
            raise ValueError(f"background must be in 0..1, got {self.background}")


@dataclass(frozen=True)
class TextInfo:
    """Width D of class embeddings, and the largest number of tokens that the text graph reads."""

    width: int
    context_length: int


@dataclass(frozen=True)
class Tensor:
    """An input or output of a graph. A dimension is a number, or a name if it varies."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """An ONNX file with its inputs and outputs."""

    file: str
    precision: Precision
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    fp32: tuple[str, ...] = ()  # layers that stay in FP32: `ovsdino_export.precision.find_fp32_layers`


@dataclass(frozen=True)
class ParityThresholds:
    """Lower limits on the figures of `Parity` at export; 0 for no limit."""

    cosine_mean: float
    cosine_p01: float
    label_agreement: float


@dataclass(frozen=True)
class Parity:
    """Agreement of an exported graph with the torch model, measured on real photos at export."""

    cosine_mean: float
    cosine_p01: float  # 1st percentile over all positions
    label_agreement: float  # share of pixels with the same label, 0..1
    finite: bool
    photos: int  # how many were compared
    thresholds: ParityThresholds


@dataclass(frozen=True)
class Dinov3seg:
    """Settings of dinov3.seg, which segments one square view with a decoder instead of the cosine head.

    Features of overlapping windows on the view are averaged, then averaged with those of the whole view.
    """

    view: int  # [px] side of the square that a photo is stretched to, bilinear, without antialias
    whole: Literal[
        "view", "window"
    ]  # at which size the whole is seen: graph `whole`, or `vision` of it shrunk
    unit_length: bool  # local and whole features are normalised before their average
    halves: tuple[tuple[int, int], ...]  # columns of a class embedding that make one cost channel each
    pad_length: int  # the most classes that `late` takes; of more, those with the highest cosine are kept
    absent_logit: float  # of the classes that were not kept

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            ValueError: a size is not positive, or ``halves`` is empty or invalid.
        """
        if self.view < 1 or self.pad_length < 1:
            raise ValueError(f"view and pad_length must be positive, got {self.view} and {self.pad_length}")
        if not self.halves or any(not 0 <= first < stop for first, stop in self.halves):
            raise ValueError(f"halves must be columns from, to; got {self.halves}")


@dataclass(frozen=True)
class Manifest:
    """Everything that the runtime knows about a model. `write_bundle` fills in ``files`` and ``digest``."""

    schema_version: int
    name: str
    model: dict[str, object]  # the network's config, verbatim
    preprocessing: Preprocessing
    windows: WindowPolicy
    head: Head
    templates: tuple[str, ...]
    text: TextInfo
    graphs: dict[str, Graph]
    parity: dict[str, Parity]  # by the name of a graph
    licences: tuple[str, ...]
    made_by: dict[str, str]  # program -> version
    kernels: tuple[Kernel, ...] = ()
    files: dict[str, str] = field(default_factory=dict)  # path -> sha256, of every file but bundle.json
    dinov3seg: Dinov3seg | None = None  # dinov3.seg; None: the cosine head
    refine: Refinement | None = None  # how labels are refined by default; None: they are not
    digest: str = ""  # `manifest_digest`; filled in by `write_bundle`

    def __post_init__(self) -> None:
        """Reject sizes that would take hours or exhaust memory; no real model has them.

        Raises:
            ValueError: a size or the overlap of windows is too large, or a size of the text graph is invalid.
        """
        sides = {
            "windows.size": (self.windows.size, MAX_WINDOW),
            "preprocessing.long_side": (self.preprocessing.long_side, MAX_SIDE),
            "dinov3seg.view": (self.dinov3seg.view if self.dinov3seg else 0, MAX_WINDOW),
        }
        for name, (side, limit) in sides.items():
            if side > limit:
                raise ValueError(f"{name} must be at most {limit} px, got {side}")
        if len(self.files) > MAX_FILES:
            raise ValueError(f"files: expected at most {MAX_FILES}, got {len(self.files)}")
        longest = max(map(len, self.templates), default=0)
        if len(self.templates) > MAX_TEMPLATES or longest > MAX_TEMPLATE:
            raise ValueError(
                f"templates: expected at most {MAX_TEMPLATES} of at most {MAX_TEMPLATE} characters, got "
                f"{len(self.templates)} of up to {longest}"
            )
        if self.windows.size > MAX_OVERLAP * self.windows.stride:
            raise ValueError(
                f"windows.stride must be at least a {MAX_OVERLAP}th of windows.size {self.windows.size}, "
                f"got {self.windows.stride}"
            )
        if not (1 <= self.text.width <= MAX_SIDE and 1 <= self.text.context_length <= MAX_SIDE):
            raise ValueError(
                f"text.width and text.context_length must be in 1..{MAX_SIDE}, got {self.text.width} and "
                f"{self.text.context_length}"
            )


def manifest_digest(record: Mapping[str, object]) -> str:
    """Hash a decoded manifest without its ``digest``; independent of white space and key order."""
    signed = {key: value for key, value in record.items() if key != "digest"}
    return hashlib.sha256(json.dumps(signed, sort_keys=True).encode()).hexdigest()
