"""How a model runs: one class of options for the commands, for Python and for the pipelines."""

from dataclasses import dataclass, field
from typing import Literal, TypedDict

from ovsdino_runtime.base.trace import NO_TRACE, Trace

Precision = Literal["fp32", "fp16", "bf16", "int8"]
Inference = Literal["slide", "whole"]


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """How a model runs.

    Args:
        device: "cpu" or "cuda".
        engine: "onnxruntime"; on cuda also "tensorrt" or "tensorrt-rtx".
        threads: how many threads compute; None takes all processors.
        precision: which of the bundle's vision graphs runs.
        templates: prompts such as "a photo of a {}."; None takes the model's own.
        inference: "slide" cuts photos into windows as the model asks; "whole" runs each photo at once:
            faster, less exact.
        short_side: [px] photos are resized to. Choose more to find smaller things, at the cost of more
            windows and time. None takes the model's own.
        antialias: average when a large photo is made smaller. Choose False to follow a benchmark's protocol.
        trace: records each stage.
    """

    device: str = "cpu"
    engine: str = "onnxruntime"
    threads: int | None = None
    precision: Precision = "fp32"
    templates: tuple[str, ...] | None = None
    inference: Inference = "slide"
    short_side: int | None = None
    antialias: bool = True
    trace: Trace = field(default=NO_TRACE, compare=False, repr=False)


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
    antialias: bool
    trace: Trace
