"""How a benchmark is run, as data: mIoU means nothing without it, so every result carries it."""

from dataclasses import dataclass, replace
from typing import Literal

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.bundle import Manifest
from ovsdino_runtime.text.vocabulary import Vocabulary, load_templates


class ProtocolError(OvsdinoError):
    """A protocol that this model form cannot run as it is written."""


@dataclass(frozen=True)
class Protocol:
    """From photo to labels, in full. Two results compare only where all of this is equal."""

    name: str
    source: str
    short_side: int  # [px] the photo is resized so that its shorter side has this length; 0: to a square
    long_side: int  # [px] upper limit of the longer side; of a square, its side
    interpolation: Literal["bilinear", "bicubic"]
    antialias: bool
    window: int  # [px] side
    stride: int  # [px]
    merge: Literal["logits", "probabilities", "local-global"]  # what is averaged where windows overlap
    templates: str  # a packaged set, one phrase, or "model": the bundle's own
    threshold: float | None = None  # of the background, where there is one; None: the model's own
    taper: float | None = None  # of windows where they overlap; see `WindowPolicy`
    words: str | None = None  # "first": a class is its first word; None: the mean of all its words

    def describe(self) -> str:
        """Say it in one line, for people."""
        size = (
            f"short side {self.short_side}, long side <= {self.long_side}"
            if self.short_side
            else (f"square of {self.long_side}")
        )
        kind = f"{self.interpolation}{' with' if self.antialias else ', no'} antialias"
        cut = "the model's own" if self.threshold is None else f"{self.threshold:g}"
        taper = "" if self.taper is None else f" tapered over {self.taper:g} of a side"
        words = ", first word of each class" if self.words == "first" else ""
        return (
            f"{self.name}: {size} ({kind}), windows {self.window}/{self.stride}{taper}, "
            f"{self.merge} averaged, templates {self.templates}{words}, background threshold {cut}"
        )


OVSDINO = Protocol(
    name="ovsdino",
    source="OVS-DINO (arXiv 2604.08461), section 4, inherited from TCL and Talk2DINO; mmseg 0.30, mmcv 1.7",
    short_side=448,
    long_side=2048,
    interpolation="bilinear",
    antialias=False,
    window=448,
    stride=224,
    merge="logits",
    templates="imagenet80",
)
DINOV3SEG = Protocol(
    name="dinov3seg",
    source="dinov3.seg (arXiv 2603.19531): windows overlap by 128 px; features, half local, half global",
    short_side=0,
    long_side=640,
    interpolation="bilinear",
    antialias=False,
    window=384,
    stride=256,
    merge="local-global",
    templates="A photo of a {} in the scene",
    words="first",
)
DINOTXT = Protocol(
    name="dinotxt",
    source="dino.txt on DINOv3: the zero-shot segmentation notebook of facebookresearch/dinov3",
    short_side=512,
    long_side=1_000_000,
    interpolation="bicubic",
    antialias=False,
    window=384,
    stride=192,
    merge="probabilities",
    templates="imagenet80",
    words="first",
)
PROTOCOLS = {protocol.name: protocol for protocol in (OVSDINO, DINOV3SEG, DINOTXT)}


def find_protocol(name: str) -> Protocol:
    """Find a protocol by its name.

    Raises:
        ProtocolError: there is none; the message lists them.
    """
    if name not in PROTOCOLS:
        raise ProtocolError(f"unknown protocol {name!r}: expected one of {', '.join(PROTOCOLS)}, model")
    return PROTOCOLS[name]


def own_protocol(manifest: Manifest) -> Protocol:
    """Write down how a bundle works when nobody says otherwise."""
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
            words=None,
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
        merge="logits",
        templates="model",
    )


def require_runnable(protocol: Protocol, manifest: Manifest) -> None:
    """Refuse what cannot be followed to the letter, rather than measure something else.

    Raises:
        ProtocolError: the message names the step and what can be run instead.
    """
    if manifest.dinov3seg is not None:
        _require_local_global(protocol, manifest, manifest.dinov3seg.view)
        return
    faults = []
    if protocol.short_side == 0 or protocol.interpolation != "bilinear":
        size = "the short side" if protocol.short_side else "a square"
        faults.append(f"resizes {size} by {protocol.interpolation} interpolation")
    if protocol.merge != "logits":
        faults.append(f"averages {protocol.merge}")
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
    if protocol.merge != "local-global":
        fault = f"averages {protocol.merge}"
    elif (protocol.long_side, protocol.window) != (view, manifest.windows.size):
        fault = f"cuts a square of {protocol.long_side} px into windows of {protocol.window} px"
    else:
        return
    raise ProtocolError(
        f"protocol {protocol.name} {fault}, which {manifest.name} cannot run: it averages features of a "
        f"square of {view} px and of windows of {manifest.windows.size} px; --protocol model can be run"
    )


def words_of(protocol: Protocol, vocabulary: Vocabulary) -> Vocabulary:
    """Return a benchmark's classes with the words that a protocol gives them."""
    if protocol.words is None:
        return vocabulary
    first = tuple(words[:1] for words in vocabulary.classes)
    return replace(vocabulary, classes=first)


def templates_of(protocol: Protocol, manifest: Manifest) -> tuple[str, ...]:
    """Return the prompts: the bundle's own, a packaged set, or one phrase.

    Raises:
        ClassesError: an unknown set.
    """
    return manifest.templates if protocol.templates == "model" else load_templates(protocol.templates)
