"""The options of an export."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.out_folder import check_out
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.bundle import bundle


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """The options of an export: model, weights, graphs, and output folder. Pass it to `export_bundle`."""

    model: str  # a preset
    checkpoint: Path | None = None  # None takes the packaged weights
    text_checkpoint: Path | None = None
    fp16: bool = False  # add vision.fp16.onnx
    out: Path = Path()  # the bundle becomes OUT/NAME.ovs
    photos: Path | None = None  # for parity; see `gather_photos`
    overwrite: bool = False
    inline: bool = False  # write graphs without local functions
    kernels: tuple[str, ...] | None = ()  # compile kernels for these GPUs; None: see `default_gpus`
    bf16: bool = False  # add vision.bf16.onnx
    int8: bool = False  # add vision.int8.onnx
    int8_data: Path | None = None  # labelled photos on which INT8 must keep its mIoU; see `find_sets`
    name: str | None = None  # of the bundle; None is the preset's
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS  # how the photos' files are read


def wanted_halves(request: ExportRequest) -> list[bundle.Precision]:
    """List the precisions below FP32 that are exported from torch (INT8 is made from the FP32 graph)."""
    wanted: dict[bundle.Precision, bool] = {"fp16": request.fp16, "bf16": request.bf16}
    return [precision for precision, asked in wanted.items() if asked]


def check_target(request: ExportRequest) -> Path:
    """Return the path of the bundle; reject a path that cannot be written before any work is done.

    Raises:
        OutputError: the path exists already, is not a directory, or cannot be written.
    """
    if request.name is not None and not re.fullmatch(r"\w[\w.-]*", request.name):
        raise OutputError(
            f"--name {request.name!r}: expected letters, digits, '_', '-' and '.', such as nano-mine"
        )
    target = request.out / f"{request.name or request.model}.ovs"
    if target.exists() and not request.overwrite:
        raise OutputError(f"{target} exists already; choose another --out, or replace it with --overwrite")
    check_out(request.out)
    return target
