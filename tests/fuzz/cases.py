"""One bad input of each kind. A case returns what is wrong with the outcome, or raises what escaped."""

import json
import shutil
from collections.abc import Callable
from random import Random

import numpy as np
import requests
from click.testing import CliRunner

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.bundle.bundle import MANIFEST
from ovsdino_runtime.cli import run
from tests.fuzz.workspace import WORDS, Workspace, damage, sign

Case = Callable[[Random, Workspace], str | None]
KINDS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")
VALUES = (
    "",
    "-1",
    "0",
    "1e9",
    "nan",
    "inf",
    "99999999999999999999",
    "\u0661",
    "a" * 5000,
    "../..",
    "@x",
    "\t",
    "[[",
    "{",
)
OPTIONS = (
    *("--threads", "--short-side", "--background", "--background-classes", "--classes", "--vocabulary"),
    *("--precision", "--inference", "--templates", "--device", "--engine", "--save", "--model", "--out"),
)
STATUSES = {200, 400, 401, 404, 405, 408, 413, 415, 421, 422, 429, 503}


def bad_file(random: Random, workspace: Workspace) -> str | None:
    """A damaged photo is read or rejected with a PhotoError."""
    file = workspace.scratch() / "photo"
    file.write_bytes(damage(workspace.encoded(random.choice(KINDS)), random))
    try:
        photo = load_photo(file)
    except OvsdinoError as error:
        return _check_line(str(error))
    fits = photo.dtype == np.uint8 and photo.ndim == 3 and photo.shape[2] == 3 and photo.size
    return None if fits else f"a photo of {photo.dtype} {photo.shape}"


def bad_flag(random: Random, workspace: Workspace) -> str | None:
    """Flags with odd values: exit code 0 or 2, one line and no traceback."""
    folder = workspace.scratch()
    (folder / "photo.png").write_bytes(workspace.encoded("PNG"))
    arguments = [str(folder / "photo.png"), "--model", str(workspace.bundle), "--out", str(folder / "out")]
    if random.random() < 0.7:
        arguments += ["--classes", WORDS]
    for option in random.sample(OPTIONS, random.randint(1, 3)):
        value = random.choice(VALUES)
        if option == "--out":
            value = str(folder / value[:20].replace("\0", "").replace("..", "x"))
        arguments += [option, value]
    done = CliRunner().invoke(run, arguments)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return None if done.exit_code in (0, 2) else f"exit code {done.exit_code}: {done.output[-200:]}"


def bad_bundle(random: Random, workspace: Workspace) -> str | None:
    """A damaged bundle is rejected; one that was signed again is rejected or works."""
    bundle = workspace.scratch() / "bad.ovs"
    shutil.copytree(workspace.bundle, bundle)
    file = random.choice(sorted(path for path in bundle.rglob("*") if path.is_file()))
    if file.name == MANIFEST and random.random() < 0.8:
        record = json.loads(file.read_text())
        _change_value(record, random)
        file.write_text(json.dumps(record))
    else:
        file.write_bytes(damage(file.read_bytes(), random))
    changed = file.read_bytes() != (workspace.bundle / file.relative_to(bundle)).read_bytes()
    signed = random.random() < 0.5
    if signed:
        sign(bundle)
    try:
        labels = workspace.label(bundle)
    except OvsdinoError as error:
        return _check_line(str(error))
    if signed or not changed or np.array_equal(labels, workspace.labels):
        return None
    return f"silently different: {file.name}"


def bad_cache(random: Random, workspace: Workspace) -> str | None:
    """A damaged text cache never changes labels."""
    expected = workspace.labels
    if not workspace.cache.is_file():
        workspace.label(workspace.bundle)
    workspace.cache.write_bytes(damage(workspace.cache.read_bytes(), random))
    labels = workspace.label(workspace.bundle)
    for aside in workspace.cache.parent.glob("*.damaged-*"):
        aside.unlink()
    return None if np.array_equal(labels, expected) else "silently different: the text cache"


def bad_checkpoint(random: Random, workspace: Workspace) -> str | None:
    """A damaged checkpoint is rejected with a CheckpointError, or its tensors are finite numbers."""
    import torch
    from safetensors.torch import save_file

    from ovsdino.network.checkpoint import read_tensors

    file = workspace.scratch() / random.choice(["weights.pt", "weights.safetensors"])
    tensors = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(5, dtype=torch.float16)}
    torch.save(tensors, file) if file.suffix == ".pt" else save_file(tensors, file)
    file.write_bytes(damage(file.read_bytes(), random))
    try:
        values = read_tensors(file)
    except OvsdinoError as error:
        return _check_line(str(error))
    floats = [value for value in values.values() if value.dtype.is_floating_point]
    return None if all(torch.isfinite(value.float()).all() for value in floats) else "values are not finite"


def bad_request(random: Random, workspace: Workspace, *, address: str) -> str | None:
    """Any request gets a status that is documented; an error is one line of JSON."""
    photo = workspace.encoded(random.choice(KINDS))
    photo = damage(photo, random) if random.random() < 0.5 else photo
    names = ("classes", "vocabulary", "background", "background_classes", "format", "other")
    fields = {
        name: random.choice((*VALUES, WORDS, "rle", "0.5", "none")) for name in names if random.random() < 0.4
    }
    answer = requests.post(f"{address}/segment", files={"photo": ("photo", photo)}, data=fields, timeout=20)
    if answer.status_code not in STATUSES:
        return f"status {answer.status_code} for {str(fields)[:200]}"
    return None if answer.status_code == 200 else _check_line(answer.json()["error"])


def _change_value(record: object, random: Random) -> None:
    """Change one value somewhere in decoded JSON."""
    places: list[tuple[dict[str, object] | list[object], str | int]] = []

    def collect(node: object) -> None:
        items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
        for key, value in items:
            places.append((node, key))  # type: ignore[arg-type] # a dict or a list
            collect(value)

    collect(record)
    node, key = random.choice(places)
    values = (None, -1, 0, 1, 10**9, 10**400, 1e300, "", "x\0y", "../x", [], {}, [[[]]], True)
    node[key] = random.choice(values)  # type: ignore[index]


def _check_line(text: str) -> str | None:
    if not text.strip() or "\n" in text.strip():
        return f"not one line: {text[:200]!r}"
    return None


CASES: dict[str, Case] = {
    "files": bad_file,
    "flags": bad_flag,
    "bundles": bad_bundle,
    "checkpoints": bad_checkpoint,
    "caches": bad_cache,
}
