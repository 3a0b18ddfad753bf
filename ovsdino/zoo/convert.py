"""Convert official checkpoints to safetensors: same names and values, with licence and source as metadata."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file

from ovsdino import __version__
from ovsdino.network.checkpoint import read_tensors
from ovsdino.zoo.layouts import CheckpointLayout, require_layout
from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.errors import OutputError


def convert(path: Path, out: Path | None = None) -> tuple[Path, CheckpointLayout]:
    """Write an official checkpoint as a safetensors file.

    Args:
        path: a torch file that contains only tensors, read with ``weights_only``, or a safetensors file.
        out: the file to write; None replaces the suffix of the checkpoint's name.

    Returns:
        The written file, and its layout.

    Raises:
        CheckpointError: the checkpoint is missing, broken, contains code, or its layout is unknown.
        OutputError: the output cannot be written.
    """
    target = path.with_suffix(".safetensors") if out is None else out
    if target.exists():
        raise OutputError(f"{target} exists already; choose another --out")
    if not target.parent.is_dir():
        raise OutputError(f"{target.parent} is not a directory; choose another --out")
    tensors = read_tensors(path)
    layout = require_layout(tensors, path)
    metadata = {
        "format": "pt",
        "layout": layout.name,
        "licence": layout.licence,
        "source": layout.source,
        "converted_from": path.name,
        "made_by": f"ovsdino {__version__}",
    }
    with partial_file(target) as partial:
        save_file({key: value.contiguous().clone() for key, value in tensors.items()}, partial, metadata)
    return target, layout
