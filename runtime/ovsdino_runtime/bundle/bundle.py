"""The bundle, an exported model: a folder of plain data files that is never changed after it is written.

NAME.ovs/
  bundle.json        the manifest below, strict
  vision.onnx        FP32: pixels (B, 3, S, S), normalised -> features (B, D, h, w), unit length along D
  vision.fp16.onnx   the same in FP16, inputs and outputs in FP32; likewise vision.bf16.onnx
  vision.int8.onnx   the same with INT8 products, for ONNX Runtime on a CPU
  text.onnx          ids (B, T) -> embeddings (B, D), unit length; of Talk2DINO CLIP's own features (B, C)
  projection.onnx    Talk2DINO only: means (N, C) of these over words and templates -> embeddings (N, D)
  tokenizer.json     HF tokenizers format
  golden.npz         image (S, S, 3) uint8 RGB, features (D, h, w) float16: every engine must reproduce it
  kernels/*.ptx      fused kernels, compiled for the GPUs that were asked for

A bundle of dinov3.seg (manifest: ``dinov3seg``) also has the following graphs, each also as NAME.fp16.onnx.
Its view has a side of V px and g patches; features are not unit vectors. Graphs that an ablation does not
need are absent:

  whole.onnx         pixels (1, 3, V, V) -> features (1, D, g, g): the vision graph at the view's size
  guidance.onnx      pixels (1, 3, V, V) -> image (1, G, g, g), fine1 (1, a, 2g, 2g), fine2 (1, b, 4g, 4g)
  refine.onnx        pixels (1, 3, V, V), features (1, D, g, g) -> refined (1, D, g, g)
  late.onnx          features (1, D, g, g), image, text (N, W) -> costs (N, C, g, g), N <= ``pad_length``
  decoder.onnx       costs (N, C, g, g), fine1, fine2 -> logits (N, 4g, 4g), any N
  golden.npz         also view (V, V, 3) uint8 RGB, text (n, W), logits (n, 4g, 4g) float16
  vision.safetensors, text.safetensors     a checkpoint of torch, from which graphs read their weights
  vision.data, guidance.data, text.data    weights of graphs that would be too large; whole's are vision's
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path, PurePosixPath

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.bundle.exchange import exchange, staging_folder, sweep_staging
from ovsdino_runtime.bundle.manifest import (
    DINOV3SEG_STAGES,
    GRAPHS,
    SCHEMA_VERSION,
    Dinov3seg,
    Graph,
    GraphName,
    Head,
    Manifest,
    Parity,
    ParityThresholds,
    Tensor,
    TextInfo,
    manifest_digest,
)

__all__ = [
    "GOLDEN",
    "GRAPHS",
    "MANIFEST",
    "SCHEMA_VERSION",
    "TOKENIZER",
    "Bundle",
    "Dinov3seg",
    "Graph",
    "GraphName",
    "Head",
    "Manifest",
    "Parity",
    "ParityThresholds",
    "Precision",
    "Tensor",
    "TextInfo",
    "load_bundle",
    "write_bundle",
]

MANIFEST = "bundle.json"
TOKENIZER = "tokenizer.json"
GOLDEN = "golden.npz"
MAX_MANIFEST = 16_000_000  # [bytes]; of our largest model 40,000


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk whose files have been checked against its manifest."""

    path: Path
    manifest: Manifest

    def file(self, name: str) -> Path:
        """Return the path of a file that the manifest lists."""
        return self.path / name

    @cached_property
    def digest(self) -> str:
        """Hash the graphs, weights and tokenizer: identifies the model regardless of its name."""
        files = {name: sha for name, sha in self.manifest.files.items() if "/" not in name}
        return hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()

    def graph_digest(self, name: str) -> str:
        """Hash everything that decides the results of a graph: file, weights and, for text, the tokenizer."""
        files = self.manifest.files
        file = self.manifest.graphs[name].file
        stem = file.partition(".")[0]
        stem = "vision" if stem == "whole" else stem
        weights = [f"{stem}.data", f"{stem}.safetensors"]  # where graphs keep weights apart
        parts = [file, *weights, TOKENIZER if name == "text" else ""]
        return hashlib.sha256("".join(files.get(part, "") for part in parts).encode()).hexdigest()


def load_bundle(path: str | Path) -> Bundle:
    """Read a bundle and check everything in it against its manifest.

    Args:
        path: the bundle's folder.

    Raises:
        BundleError: it is not a bundle, has another schema, is incomplete or was changed. The message names
            the file.
    """
    path = Path(path)
    if not path.exists():
        sweep_staging(path)  # a writer may have been killed between taking the old one away and the new one
    manifest = _read_manifest(path / MANIFEST)
    _check_graphs(path / MANIFEST, manifest)
    _check_files(path, manifest.files)
    return Bundle(path, manifest)


def at_short_side(bundle: Bundle, short_side: int) -> Bundle:
    """Return the bundle with another short side [px] to which photos are resized.

    Raises:
        BundleError: a window would be larger than the photo, or the model accepts squares of one size only.
    """
    manifest = bundle.manifest
    minimum, max_count = manifest.windows.size, manifest.preprocessing.long_side
    if manifest.dinov3seg is not None:
        raise BundleError(f"{bundle.path}: sees a square of {max_count} px only; leave the short side out")
    if not minimum <= short_side <= max_count:
        raise BundleError(
            f"{bundle.path}: a short side of {short_side} px: expected {minimum}, its window, to {max_count}"
        )
    return replace(
        bundle,
        manifest=replace(manifest, preprocessing=replace(manifest.preprocessing, short_side=short_side)),
    )


def write_bundle(
    path: str | Path, manifest: Manifest, staging: str | Path, *, overwrite: bool = False
) -> Bundle:
    """Write a bundle atomically: after a crash there is either all of it or nothing.

    Args:
        path: folder of the bundle; its parent is created.
        manifest: the manifest without ``files``, which is filled in here.
        staging: folder whose files are copied into the bundle.
        overwrite: whether to replace an existing bundle.

    Returns:
        The bundle, read back and checked.

    Raises:
        BundleError: the path exists, the disk is full, or the manifest does not match the files.
    """
    path = Path(path)
    sweep_staging(path)
    if path.exists() and not overwrite:
        raise BundleError(f"{path}: exists already; choose another directory or ask for it to be replaced")
    if path.exists() and not (path / MANIFEST).is_file():
        raise BundleError(f"{path}: exists and is not a bundle; it is not replaced, choose another directory")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with staging_folder(path) as temporary:
            fresh = temporary / "new"
            shutil.copytree(staging, fresh, ignore=shutil.ignore_patterns(MANIFEST))
            fresh.chmod(0o755)  # a staging directory made by tempfile is closed to others
            for file in _walk(fresh):  # safetensors closes the files that it writes
                (fresh / file).chmod(0o644)
            manifest = replace(manifest, files={name: _sha256(fresh / name) for name in sorted(_walk(fresh))})
            (fresh / MANIFEST).write_text(_with_digest(manifest), encoding="utf-8")
            written = load_bundle(fresh)
            exchange(fresh, path, old=temporary / "old")
    except OSError as error:
        reason = error.args[0][0][2] if isinstance(error, shutil.Error) else error.strerror
        raise BundleError(
            f"{path}: cannot be written: {reason}; make room, or choose another directory"
        ) from error
    return replace(written, path=path)


def _with_digest(manifest: Manifest) -> str:
    """Return the JSON of a manifest with its digest."""
    record = json.loads(strict_json.dumps(manifest))
    return strict_json.dumps(replace(manifest, digest=manifest_digest(record)))


def _read_manifest(path: Path) -> Manifest:
    if not path.exists():
        raise BundleError(f"{path}: no such file; a bundle is a directory that `ovsdino-export` wrote")
    try:
        if (size := regular_file(path).stat().st_size) > MAX_MANIFEST:
            raise ValueError(f"it has {size} bytes, expected at most {MAX_MANIFEST}")
        raw = strict_json.loads(path.read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if isinstance(raw, dict) and version != SCHEMA_VERSION:
            raise BundleError(
                f"{path}: schema_version {version}, this runtime reads {SCHEMA_VERSION}; export the "
                "model again with this version, or install the version that wrote the bundle"
            )
        manifest = strict_json.parse(Manifest, raw)
        assert isinstance(raw, dict)
        if manifest.digest != (expected := manifest_digest(raw)):
            raise ValueError(
                f"changed after it was written: digest {expected[:12]}, it says {manifest.digest[:12]}"
            )
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {error}; the bundle is damaged, export the model again") from error
    return manifest


def _check_graphs(manifest_file: Path, manifest: Manifest) -> None:
    dinov3seg = manifest.dinov3seg
    known = [name for name in GRAPHS if dinov3seg or name.partition(".")[0] not in DINOV3SEG_STAGES]
    if unknown := sorted(manifest.graphs.keys() - set(known)):
        raise BundleError(f"{manifest_file}: unknown graph {unknown[0]}, expected {', '.join(known)}")
    needed = {"vision", "text"} | ({"late", "decoder"} if dinov3seg else set())
    if dinov3seg and dinov3seg.whole == "view":
        needed.add("whole")
    if missing := sorted(needed - manifest.graphs.keys()):
        raise BundleError(f"{manifest_file}: graph {missing[0]} is missing; export the model again")
    described = [graph.file for graph in manifest.graphs.values()]
    described += [kernel.file for kernel in manifest.kernels]
    for file in (*described, TOKENIZER, GOLDEN):
        if file not in manifest.files:
            raise BundleError(f"{manifest_file}: {file} is not among its files; export the model again")
    if not manifest.templates or any("{}" not in template for template in manifest.templates):
        raise BundleError(
            f"{manifest_file}: templates {manifest.templates}: expected some, each with {{}} in it"
        )


def _check_files(path: Path, files: dict[str, str]) -> None:
    for name in files:
        if not _is_inside(path, name):
            raise BundleError(
                f"{path / MANIFEST}: file {name!r} leads out of the bundle; do not use this bundle"
            )
    present = set(_walk(path)) - {MANIFEST}
    if missing := sorted(files.keys() - present):
        raise BundleError(
            f"{path / missing[0]}: missing, though {MANIFEST} lists it; get the whole bundle again"
        )
    if unlisted := sorted(present - files.keys()):
        raise BundleError(
            f"{path / unlisted[0]}: {MANIFEST} does not list it; remove it, or export the model again"
        )
    for name, expected in files.items():
        if not (path / name).is_file():
            raise BundleError(f"{path / name}: not a file, or a link to nothing; get the whole bundle again")
        if (actual := _sha256(path / name)) != expected:
            raise BundleError(
                f"{path / name}: changed or damaged: sha256 {actual[:12]}, {MANIFEST} says {expected[:12]}; "
                "get the bundle again"
            )


def _is_inside(path: Path, name: str) -> bool:
    parts = PurePosixPath(name)
    if "\\" in name or "\0" in name or parts.is_absolute() or ".." in parts.parts or not parts.parts:
        return False
    try:
        return (path / name).resolve().is_relative_to(path.resolve())
    except (OSError, RuntimeError):  # a circle of links
        return False


def _walk(path: Path) -> Iterator[str]:
    return (file.relative_to(path).as_posix() for file in path.rglob("*") if not file.is_dir())


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
