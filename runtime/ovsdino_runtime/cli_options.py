"""Command-line options for how a model runs, shared by all commands that segment photos."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from ovsdino_runtime.base.cli_errors import user_errors

OPTIONS = (
    click.option(
        "--model",
        default="nano",
        show_default=True,
        help="A name from `ovsdino models`, or the path of a bundle.",
    ),
    click.option(
        "--device",
        default="cpu",
        show_default=True,
        metavar="cpu|cuda|cuda:N",
        help="Where the model runs; cuda:1 is the second GPU.",
    ),
    click.option(
        "--engine",
        type=click.Choice(["auto", "onnxruntime", "openvino", "tensorrt", "tensorrt-rtx"]),
        default="onnxruntime",
        show_default=True,
        help="Engine of the graphs; TensorRT needs cuda; auto takes the fastest on the processor.",
    ),
    click.option(
        "--threads",
        type=click.IntRange(min=1),
        help="Number of computing threads.  [default: all processors]",
    ),
    click.option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16", "int8"]),
        default="fp32",
        show_default=True,
        help="Number format of the vision graph; fp16 and bf16 need cuda or OpenVINO.",
    ),
    click.option(
        "--templates",
        metavar="NAME|TEXT|@FILE",
        help="Prompts around each class name.  [default: the model's]",
    ),
    click.option(
        "--inference",
        type=click.Choice(["slide", "whole", "both"]),
        default="slide",
        show_default=True,
        help="slide cuts photos into windows; whole runs each photo at once: faster, less accurate; "
        "both averages the two.",
    ),
    click.option(
        "--short-side",
        type=click.IntRange(min=1),
        metavar="PIXELS",
        help="Resize photos to this shorter side. Choose more to find smaller things, in more time.  "
        "[default: the model's]",
    ),
    click.option(
        "--refine/--no-refine",
        default=None,
        help="Let outlines follow the photo's edges.  [default: the model's]",
    ),
    click.option(
        "--min-area",
        type=click.FloatRange(0, 0.5),
        metavar="SHARE",
        help="Refined regions below this share of the photo join a neighbour.  [default: the model's]",
    ),
    click.option(
        "--presence",
        type=click.FloatRange(0, 1),
        metavar="CONFIDENCE",
        help="Without a background, leave out classes whose confidence is lower everywhere; such as 0.3.",
    ),
)
NAMES = (
    "device",
    "engine",
    "threads",
    "precision",
    "inference",
    "short_side",
    "refine",
    "min_area",
    "presence",
)


def model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command, which receives ``model`` and ``options``, a `RuntimeOptions`."""

    @wraps(command)
    def with_options(**given: Any) -> None:  # noqa: ANN401 - click gives each its own type
        with user_errors():
            from ovsdino_runtime.base.options import RuntimeOptions
            from ovsdino_runtime.text.vocabulary import load_templates

            text = given.pop("templates")
            fields = {name: given.pop(name) for name in NAMES}
            options = RuntimeOptions(templates=load_templates(text) if text else None, **fields)
        command(options=options, **given)

    for option in reversed(OPTIONS):
        with_options = option(with_options)
    return with_options
