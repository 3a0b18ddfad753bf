"""Fetch a fixed version of ONNX Runtime Web from the npm registry and check its hash.

To change the version, read its hash with ``npm view onnxruntime-web@VERSION dist.integrity``, then run
``pytest -m browser -n 0 tests/web``.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Literal

from ovsdino_runtime.base.atomic import write_bytes
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import make_private
from ovsdino_runtime.base.regular_file import regular_file

Provider = Literal["wasm", "webgpu"]
PACKAGE = "onnxruntime-web"
VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
FETCH = f"npm pack {PACKAGE}@{VERSION}"
CURE = f"run `{FETCH}` where there is a network, and give the file with --web-runtime"
TIMEOUT_S = 600
FILES: dict[Provider, dict[str, str]] = {  # name in the page -> file of the package
    "wasm": {
        "ort.js": "ort.wasm.min.js",
        "ort.mjs": "ort-wasm-simd-threaded.mjs",
        "ort.wasm": "ort-wasm-simd-threaded.wasm",
    },
    "webgpu": {
        "ort.js": "ort.webgpu.min.js",
        "ort.mjs": "ort-wasm-simd-threaded.asyncify.mjs",
        "ort.wasm": "ort-wasm-simd-threaded.asyncify.wasm",
    },
}


class WebRuntimeError(OvsdinoError):
    """ONNX Runtime Web cannot be fetched, or its hash differs from the published one."""


def find_package(file: Path | None = None) -> bytes:
    """Return the npm package: from the given file, else from the cache, else from npm.

    Args:
        file: a package that was fetched earlier; None reads the cache or asks npm.

    Raises:
        WebRuntimeError: npm is not installed or fails, or the file is not this version's package.
    """
    if file is not None:
        return _check(_read(file), str(file))
    kept = cache_dir() / "web" / f"{PACKAGE}-{VERSION}.tgz"
    if kept.is_file() and _sha512(data := _read(kept)) == SHA512:
        return data
    data = _check(_fetch(), f"what {FETCH} fetched")
    try:
        make_private(kept.parent)
        write_bytes(kept, data)
    except OSError as error:
        raise WebRuntimeError(
            f"{kept}: cannot be written: {error.strerror or error}; set OVSDINO_CACHE"
        ) from error
    return data


def read_files(package: bytes, provider: Provider) -> dict[str, bytes]:
    """Read the files of an execution provider from the npm package.

    Args:
        package: content of the package, from `find_package`.
        provider: execution provider that runs the graphs.

    Returns:
        File name in the page (ort.js, ort.mjs, ort.wasm) -> content.
    """
    with tarfile.open(fileobj=BytesIO(package)) as archive:
        return {name: _member(archive, f"package/dist/{file}") for name, file in FILES[provider].items()}


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    if file is None:
        raise WebRuntimeError(f"{PACKAGE} {VERSION}: {name} is no file; {CURE}")
    return file.read()


def _fetch() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise WebRuntimeError(f"npm, which fetches {PACKAGE}, is not installed: install Node.js, or {CURE}")
    with tempfile.TemporaryDirectory(prefix="ovsdino-") as folder:
        command = [npm, *FETCH.split()[1:], "--silent", "--pack-destination", folder]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise WebRuntimeError(f"{FETCH}: no answer after {TIMEOUT_S} s; {CURE}") from error
        files = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or not files:
            lines = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
            raise WebRuntimeError(f"{FETCH}: {lines[0][:200]}; {CURE}")
        return _read(files[0])


def _read(file: Path) -> bytes:
    try:
        return regular_file(file).read_bytes()
    except OSError as error:
        raise WebRuntimeError(f"{file}: cannot be read: {error.strerror or error}; {CURE}") from error


def _check(data: bytes, what: str) -> bytes:
    if (found := _sha512(data)) != SHA512:
        raise WebRuntimeError(
            f"{what} is not {PACKAGE} {VERSION} as published: sha512 {found[:12]}..., expected "
            f"{SHA512[:12]}...; {CURE}"
        )
    return data


def _sha512(data: bytes) -> str:
    return base64.b64encode(hashlib.sha512(data).digest()).decode()
