"""Runtime options of a model, shared by the commands, Python and the pipelines."""

from dataclasses import dataclass, field
from typing import Literal, TypedDict, get_args

from ovsdino_runtime.base.errors import EngineError, OptionError
from ovsdino_runtime.base.trace import NO_TRACE, Trace

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Inference = Literal["slide", "whole", "both"]
MAX_AREA = 0.5  # largest share of a photo that counts as a small region
MAX_THREADS = 512  # each has a stack; no machine of today computes faster with more
MAX_SHORT_SIDE = 8192  # [px]


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Options of how a model runs: device, engine, windows and outlines.

    Example:
        >>> segmenter = Segmenter.load("nano", RuntimeOptions(engine="openvino", short_side=672))

    Args:
        device: "cpu", "cuda", or "cuda:1" for the second GPU in CUDA's order.
        engine: "onnxruntime"; on the processor also "openvino", often faster on Intel's, and "auto", the
            fastest that is installed, measured once per machine; on cuda also "tensorrt" or "tensorrt-rtx".
        threads: number of computing threads; None takes all processors.
        precision: number format of the vision graph. Choose "fp16" on GPUs, if the bundle has it.
        templates: prompts such as "a photo of a {}."; None takes the model's own.
        inference: "slide" runs overlapping windows; "whole" runs each photo once: faster, less exact; "both"
            averages the two: slower, better where one object fills the photo.
        short_side: [px] to which photos are resized. Choose more to find smaller objects; more windows take
            more time. None takes the model's own.
        refine: align outlines with the photo's edges and merge small regions. Choose False for thin objects
            such as poles, and for speed. None takes the model's own.
        min_area: share of the photo, 0..0.5, below which a refined region takes its neighbour's label.
        presence: least confidence, 0..1, that a class must reach at some pixel to be labelled at all; without
            a background only. Choose it for long class lists. None keeps every class.
        antialias: average when shrinking photos. Choose False to follow a benchmark's protocol.
        trace: records the time of each stage.
    """

    device: str = "cpu"
    engine: str = "onnxruntime"
    threads: int | None = None
    precision: Precision = "fp32"
    templates: tuple[str, ...] | None = None
    inference: Inference = "slide"
    short_side: int | None = None
    refine: bool | None = None
    min_area: float | None = None
    presence: float | None = None
    antialias: bool = True
    trace: Trace = field(default=NO_TRACE, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Reject invalid values.

        Raises:
            OptionError: the message names the option, its value, and the valid values.
        """
        _check_choice("precision", self.precision, get_args(Precision))
        _check_choice("inference", self.inference, get_args(Inference))
        _check_count("threads", self.threads, MAX_THREADS)
        _check_count("short_side", self.short_side, MAX_SHORT_SIDE)
        if self.refine is not None and not isinstance(self.refine, bool):
            raise OptionError(f"refine must be True, False or None, got {self.refine!r:.40}")
        _check_area(self.min_area, refine=self.refine)
        _check_presence(self.presence)
        if not isinstance(self.antialias, bool):
            raise OptionError(f"antialias must be True or False, got {self.antialias!r:.40}")

    @property
    def device_kind(self) -> str:
        """Return the device without its number: "cpu" or "cuda".

        Raises:
            EngineError: see `gpu_index`.
        """
        return "cuda" if self.gpu_index else self.device.partition(":")[0]

    @property
    def gpu_index(self) -> int:
        """Return the number of the GPU; 0 for "cpu" and "cuda".

        Raises:
            EngineError: the device is not "cpu", "cuda" or "cuda:N".
        """
        kind, colon, number = self.device.partition(":")
        if not colon:
            return 0
        if kind != "cuda" or not (number.isascii() and number.isdigit()):
            raise EngineError(
                f"device {self.device!r}: expected cpu, cuda, or cuda:N with the number of a GPU"
            )
        return int(number)


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"{name} {value!r:.40}: expected one of {', '.join(choices)}")


def _check_count(name: str, value: object, max_count: int) -> None:
    if value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= max_count:
        raise OptionError(f"{name} must be a whole number in 1..{max_count}, got {value!r:.40}")


def _check_area(min_area: object, *, refine: bool | None) -> None:
    if min_area is None:
        return
    if isinstance(min_area, bool) or not isinstance(min_area, int | float) or not 0 <= min_area <= MAX_AREA:
        raise OptionError(f"min_area must be a share of the photo in 0..{MAX_AREA}, got {min_area!r:.40}")
    if refine is False:
        raise OptionError("min_area has no effect without refine; leave one of them out")


def _check_presence(presence: object) -> None:
    if presence is None:
        return
    if isinstance(presence, bool) or not isinstance(presence, int | float) or not 0 <= presence <= 1:
        raise OptionError(f"presence must be a confidence in 0..1, got {presence!r:.40}")


DEFAULT_OPTIONS = RuntimeOptions()


class OptionChanges(TypedDict, total=False):
    """The fields of `RuntimeOptions` as keyword arguments."""

    device: str
    engine: str
    threads: int | None
    precision: Precision
    templates: tuple[str, ...] | None
    inference: Inference
    short_side: int | None
    refine: bool | None
    min_area: float | None
    presence: float | None
    antialias: bool
    trace: Trace
