"""Write the page: its sources unchanged, and the files of model and engine as scripts.

DIR/
  index.html style.css page.js view.js png.js     user interface
  program.js                                      computation in a worker: the files of `worker`, joined
  data/settings.js                                the model's settings, class lists and colours
  data/NAME.PART.js                               files: gzip in base64, at most 16 MiB each
  LICENSES.txt

Browsers let a page opened from a disk load scripts and styles, but not fetch, import or start workers from
files. Therefore every file is a classic script, and the worker starts from the text of a function.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np

from ovsdino_export.web.onnxruntime_web import FILES, PACKAGE, VERSION, find_package, read_files
from ovsdino_export.web.settings import check_supported, graph_files, page_settings
from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.bundle.bundle import TOKENIZER, Bundle
from ovsdino_runtime.bundle.exchange import exchange, staging_folder, sweep_staging
from ovsdino_runtime.engines.onnxruntime import read_golden

PART_BYTES = 12 << 20  # of gzip in a script: 16 MiB in base64, below the limit of 25 MiB on some hosts
WORKER = (  # in the order in which they are joined
    "errors.js",
    "assets.js",
    "tokenizer.js",
    "classes.js",
    "words.js",
    "resize.js",
    "windows.js",
    "merge.js",
    "guided_filter.js",
    "regions.js",
    "refine.js",
    "segmenter.js",
    "engine.js",
    "worker.js",
)
PAGE = ("index.html", "style.css", "page.js", "view.js", "png.js")
SETTINGS = "data/settings.js"
MIT = "licence_mit.txt"


@dataclass(frozen=True)
class Script:
    """A script that holds a part of a file."""

    file: str  # in data/
    bytes: int


def write_page(
    bundle: Bundle, folder: Path, *, runtime: Path | None = None, overwrite: bool = False
) -> list[Path]:
    """Write a page that runs a model in the browser; an error leaves no partial page.

    Args:
        bundle: the model.
        folder: folder of the page; it is created.
        runtime: the npm package of ONNX Runtime Web; None fetches it once.
        overwrite: replace an existing page.

    Returns:
        The files of the page.

    Raises:
        OutputError: the model does not run in a browser, or the folder exists or cannot be written.
        WebRuntimeError: see `find_package`.
    """
    check_supported(bundle)
    sweep_staging(folder)
    _check_free(folder, overwrite=overwrite)
    package = find_package(runtime)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(folder) as temporary:
            fresh = temporary / "new"
            _fill(fresh, bundle, package)
            fresh.chmod(0o755)
            exchange(fresh, folder, old=temporary / "old")
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from error
    return sorted(path for path in folder.rglob("*") if path.is_file())


def program_source() -> str:
    """Join the worker's files into a function; the page starts its worker from the function's text."""
    parts = [f"// {name}\n{_source('worker', name)}" for name in WORKER]
    return "function program() {\n" + "\n".join(parts) + "}\n"


def _check_free(folder: Path, *, overwrite: bool) -> None:
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not (folder / SETTINGS).is_file():
        raise OutputError(f"{folder}: exists and is no page; it is not replaced, choose another --web")
    if not overwrite:
        raise OutputError(f"{folder}: exists already; choose another --web, or give --overwrite")


def _fill(fresh: Path, bundle: Bundle, package: bytes) -> None:
    (fresh / "data").mkdir(parents=True)
    for name in PAGE:
        _write(fresh / name, _source("page", name))
    _write(fresh / "program.js", program_source())
    _write(fresh / "LICENSES.txt", _licences(bundle))
    golden = read_golden(bundle, image=(None, None, 3), features=(None, None, None))
    features = golden["features"].astype("<f4")  # (D, h, w)
    groups = {
        "model": _model_files(bundle),
        "wasm": read_files(package, "wasm"),
        "webgpu": read_files(package, "webgpu"),
        "golden": {
            "golden.image": golden["image"].astype(np.uint8).tobytes(),
            "golden.features": features.tobytes(),
        },
    }
    scripts = {group: _write_group(fresh / "data", group, files) for group, files in groups.items()}
    settings = page_settings(bundle, (features.shape[1], features.shape[2]))
    settings["runtime"] = VERSION
    settings["scripts"] = {
        group: [{"file": script.file, "bytes": script.bytes} for script in found]
        for group, found in scripts.items()
    }
    settings["bytes"] = sum(script.bytes for group in ("model", "wasm") for script in scripts[group])
    _write(fresh / SETTINGS, f"receiveSettings({json.dumps(settings, separators=(',', ':'))});\n")


def _model_files(bundle: Bundle) -> dict[str, bytes]:
    graphs = graph_files(bundle).values()
    names = [name for graph in graphs for name in (graph.file, *graph.weights)]
    return {name: bundle.file(name).read_bytes() for name in (*names, TOKENIZER)}


def _write_group(folder: Path, group: str, files: Mapping[str, bytes]) -> list[Script]:
    """Write files as scripts; an engine's scripts have its name, because both engines have the same files."""
    scripts = []
    prefix = f"{group}." if group in FILES else ""
    for name, data in files.items():
        for part, text in enumerate(_parts(data)):
            script = f"{prefix}{name}.{part}.js"
            _write(folder / script, f'receiveAsset("{name}",{part},"{text}");\n')
            scripts.append(Script(script, len(text)))
    return scripts


def _parts(data: bytes) -> Iterator[str]:
    packed = gzip.compress(data, 6, mtime=0)
    for start in range(0, len(packed), PART_BYTES):
        yield base64.b64encode(packed[start : start + PART_BYTES]).decode()


def _licences(bundle: Bundle) -> str:
    manifest = bundle.manifest
    lines = [f"The model {manifest.name}:", *(f"- {licence}" for licence in manifest.licences)]
    return "\n".join([*lines, "", f"{PACKAGE} {VERSION}:", "", _source("page", MIT)])


def _source(folder: str, name: str) -> str:
    return (resources.files("ovsdino_export") / "web" / folder / name).read_text(encoding="utf-8")


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")
