"""Evaluation protocols. Every result stores its protocol, without which an mIoU cannot be interpreted."""

from dataclasses import dataclass, replace
from typing import Literal

from ovsdino_benchmarks.datasets.official_names import with_official_names
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.bundle import Manifest
from ovsdino_runtime.text.vocabulary import Vocabulary, load_templates


class ProtocolError(OvsdinoError):
    """The form of a model cannot follow a protocol exactly."""


Average = Literal["logits", "probabilities", "features"]
Words = Literal["official", "first", "all"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How a photo is labelled. Results are comparable only if all fields are equal."""

    name: str
    source: str  # paper, or repository, commit and file
    short_side: int  # [px] the photo is resized so that its shorter side has this length; 0: to a square
    long_side: int  # [px] upper limit of the longer side; of a square, its side
    interpolation: Literal["bilinear", "bicubic"]
    antialias: bool
    window: int  # [px] side
    stride: int  # [px]
    average: (
        Average  # what is averaged where windows overlap; features: dinov3.seg's, half local, half global
    )
    templates: str  # a packaged set, one phrase, or "model": the bundle's own
    probability: Literal["sigmoid", "softmax"] = "sigmoid"  # of the classes' logits, where these are averaged
    align_corners: bool = False  # in enlarging a window's scores to its size
    words: Words = "official"  # the official list's name, or of our list the first word or the mean of all
    threshold: float | None = None  # of the background, where there is one; None: the model's own
    taper: float | None = None  # of windows where they overlap; see `WindowPolicy`
    refine: bool | None = None  # labels, as the bundle does by default; None: they are not refined
    patches: Literal["head", "backbone"] = "head"  # of zero-shot dino.txt; see `ZeroShotProtocol`
    background_cleaning: float = 0.0  # Talk2DINO's weight of its attention maps, lambda; 0: none
    pamr: int = 0  # iterations of PAMR on each window's masks; 0: none

    @property
    def needs_full_masks(self) -> bool:
        """Tell whether windows are upsampled before averaging, which the runtime's merge cannot do."""
        return self.average == "probabilities" or self.align_corners

    def describe(self) -> str:
        """Return the protocol as one line of text."""
        size = (
            f"short side {self.short_side}, long side <= {self.long_side}"
            if self.short_side
            else f"square of {self.long_side}"
        )
        kind = f"{self.interpolation}{' with' if self.antialias else ', no'} antialias"
        cut = "the model's own" if self.threshold is None else f"{self.threshold:g}"
        taper = "" if self.taper is None else f" tapered over {self.taper:g} of a side"
        averaged = f"{self.probability} probabilities" if self.average == "probabilities" else self.average
        extras = [
            *(["labels refined"] if self.refine else []),
            *(["corners aligned"] if self.align_corners else []),
            *([f"{self.patches} patches"] if self.patches != "head" else []),
            *([f"background cleaning {self.background_cleaning:g}"] if self.background_cleaning else []),
            *([f"PAMR {self.pamr} iterations"] if self.pamr else []),
        ]
        return (
            f"{self.name}: {size} ({kind}), windows {self.window}/{self.stride}{taper}, "
            f"{averaged} averaged{''.join(f', {extra}' for extra in extras)}, templates {self.templates}, "
            f"words {self.words}, background threshold {cut}"
        )


# The paper states short side, stride, and class names in the ImageNet templates. The rest is
# reconstructed: long side, window and interpolation are TCL's and Talk2DINO's, the average is mmseg's own.
OVSDINO = Protocol(
    name="ovsdino",
    source=(
        "OVS-DINO (arXiv 2604.08461), section 4; what it does not state: open-mmlab/mmsegmentation 0.30, "
        "mmseg/models/segmentors/encoder_decoder.py, and mmcv 1.7, imrescale"
    ),
    short_side=448,
    long_side=2048,
    interpolation="bilinear",
    antialias=False,
    window=448,
    stride=224,
    average="logits",
    templates="imagenet80",
)
TALK2DINO = replace(
    OVSDINO,
    name="talk2dino",
    source=(
        "lorebianchi98/Talk2DINO 4918c2df, src/open_vocabulary_segmentation: models/dinotext/dinotext.py, "
        "segmentation/evaluation/dinotext_seg.py, configs/*/eval_*.yml"
    ),
    average="probabilities",
    align_corners=True,
    templates="imagenet7",
)
DINOV3SEG = Protocol(
    name="dinov3seg",
    source=(
        "dinov3.seg (arXiv 2603.19531), section 3: view, windows, overlap, averaged features; names and "
        "prompt as in cvlab-kaist/CAT-Seg 6d3a188a, cat_seg/modeling/transformer/cat_seg_predictor.py"
    ),
    short_side=0,
    long_side=640,
    interpolation="bilinear",
    antialias=False,
    window=384,
    stride=256,
    average="features",
    templates="A photo of a {} in the scene",
)
DINOTXT = Protocol(
    name="dinotxt",
    source="facebookresearch/dinov3 6876159a, notebooks/dinotxt_segmentation_inference.ipynb",
    short_side=512,
    long_side=1_000_000,
    interpolation="bicubic",
    antialias=False,
    window=384,
    stride=192,
    average="probabilities",
    probability="softmax",
    templates="imagenet80",
)
# Benchmarks whose official Talk2DINO configuration has ``with_bg_clean: true``; its code's default lambda.
CLEANED, CLEANING = frozenset({"voc21", "coco-object"}), 0.2
PROTOCOLS = {protocol.name: protocol for protocol in (OVSDINO, TALK2DINO, DINOV3SEG, DINOTXT)}


def find_protocol(name: str) -> Protocol:
    """Return a protocol by name.

    Raises:
        ProtocolError: there is no such protocol; the message lists the names.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)}, model")
    return PROTOCOLS[name]


def own_protocol(manifest: Manifest) -> Protocol:
    """Return the default behaviour of a bundle as a protocol."""
    limits, windows = manifest.preprocessing, manifest.windows
    if manifest.dinov3seg is not None:
        return replace(
            DINOV3SEG,
            name="model",
            source=f"the bundle of {manifest.name}",
            long_side=manifest.dinov3seg.view,
            window=windows.size,
            stride=windows.stride,
            templates="model",
            words="all",
        )
    return Protocol(
        name="model",
        source=f"the bundle of {manifest.name}",
        short_side=limits.short_side,
        long_side=limits.long_side,
        interpolation="bilinear",
        antialias=True,
        window=windows.size,
        stride=windows.stride,
        taper=windows.taper,
        refine=True if manifest.refine is not None else None,
        average="logits",
        templates="model",
        words="all",
    )


def require_runnable(protocol: Protocol, manifest: Manifest) -> None:
    """Reject a protocol that a bundle cannot follow exactly.

    Raises:
        ProtocolError: the bundle cannot follow it; the message names the step and an alternative.
    """
    if manifest.dinov3seg is not None:
        _require_local_global(protocol, manifest, manifest.dinov3seg.view)
        return
    faults = []
    if protocol.short_side == 0 or protocol.interpolation != "bilinear":
        size = "the short side" if protocol.short_side else "a square"
        faults.append(f"resizes {size} by {protocol.interpolation} interpolation")
    if protocol.average == "features" or (protocol.average, protocol.probability) == (
        "probabilities",
        "softmax",
    ):
        faults.append(f"averages {'features' if protocol.average == 'features' else 'softmax probabilities'}")
    if protocol.background_cleaning or protocol.pamr:
        faults.append("cleans masks with attention maps or PAMR, which take the torch form of a Talk2DINO")
    if protocol.window != manifest.windows.size:
        faults.append(
            f"cuts windows of {protocol.window} px where the model reads {manifest.windows.size} px"
        )
    if faults:
        raise ProtocolError(
            f"protocol {protocol.name} {' and '.join(faults)}, which {manifest.name} cannot run in this "
            "version; --protocol ovsdino (models of 448 px) or --protocol model can be run"
        )


def _require_local_global(protocol: Protocol, manifest: Manifest, view: int) -> None:
    if protocol.average != "features":
        fault = f"averages {protocol.average}"
    elif (protocol.long_side, protocol.window) != (view, manifest.windows.size):
        fault = f"cuts a square of {protocol.long_side} px into windows of {protocol.window} px"
    elif protocol.align_corners:
        fault = "enlarges windows with aligned corners"
    else:
        return
    raise ProtocolError(
        f"protocol {protocol.name} {fault}, which {manifest.name} cannot run: it averages features of a "
        f"square of {view} px and of windows of {manifest.windows.size} px; --protocol model can be run"
    )


def words_of(protocol: Protocol, vocabulary: Vocabulary, official: str | None) -> Vocabulary:
    """Return the classes of a data set with the words that a protocol uses.

    Args:
        protocol: decides which words are used.
        vocabulary: the classes with all their words.
        official: a key of `official_names`; None for a folder, whose own words count as official.
    """
    if protocol.words == "first":
        return replace(vocabulary, classes=tuple(words[:1] for words in vocabulary.classes))
    if protocol.words == "official" and official is not None:
        return with_official_names(vocabulary, official)
    return vocabulary


def for_benchmark(protocol: Protocol, benchmark: str) -> Protocol:
    """Return a protocol with its authors' settings for a benchmark."""
    if protocol.name == TALK2DINO.name and benchmark in CLEANED:
        return replace(protocol, background_cleaning=CLEANING)
    return protocol


def templates_of(protocol: Protocol, manifest: Manifest) -> tuple[str, ...]:
    """Return the prompts: the bundle's own, a packaged set, or one phrase.

    Raises:
        ClassesError: the set is unknown.
    """
    return manifest.templates if protocol.templates == "model" else load_templates(protocol.templates)
