"""Bundles that somebody made to do harm, with right hashes; and what is no file in the place of files.

A case has 20 s like all others and must not take much memory. A bundle may also work: a changed constant in
a graph is another model.
"""

import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import MappingProxyType

import numpy as np
import onnx
from click.testing import CliRunner
from onnx import TensorProto

from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.bundle import GOLDEN, MANIFEST, TOKENIZER, load_bundle
from ovsdino_runtime.cli import run
from ovsdino_runtime.text.encoder import embedding_key
from tests.fuzz.workspace import WORDS, Workspace, damage, sign

MAX_MEMORY = 1e9  # [bytes] by which a case may raise the process's peak; a photo of 4096 px takes most of it
DEEP = 200_000


def hostile_bundle(random: Random, workspace: Workspace) -> str | None:
    """A bundle that was made to do harm is rejected in one line, or works."""
    bundle = workspace.scratch() / "bad.ovs"
    shutil.copytree(workspace.bundle, bundle)
    harm = random.choice(list(HARMS))
    HARMS[harm](bundle, random)
    if random.random() < 0.9:
        sign(bundle)
    with _memory_is_bounded(harm):
        try:
            workspace.label(bundle)
        except OvsdinoError as error:
            if not str(error).strip() or "\n" in str(error).strip():
                return f"not one line: {harm}: {str(error)[:200]!r}"
    return None


def no_file(random: Random, workspace: Workspace) -> str | None:
    """A folder, pipe, device, socket or link to nothing in the place of a file: exit code 2 and one line."""
    folder = workspace.scratch()
    kind, option = random.choice(list(PLACES)), random.choice(list(OPTIONS))
    (folder / "photo.png").write_bytes(workspace.encoded("PNG"))
    (folder / "classes.txt").write_text("red\ngreen\n")
    file = folder / OPTIONS[option]
    file.unlink(missing_ok=True)
    put(file, kind)
    classes = f"@{folder / 'classes.txt'}" if option == "classes" else WORDS
    templates = ["--templates", f"@{file}"] if option == "templates" else []
    photo = file if option == "list" else folder / "photo.png"
    model = file if option == "model" else workspace.bundle
    arguments = ["--model", str(model), "--classes", classes, *templates, "--out", str(folder / "out")]
    done = CliRunner().invoke(run, [str(photo), *arguments, "--threads", "1"])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    if done.exit_code in (1, 2) and "Error" in done.output:
        return None
    return f"a {kind} as {option}: exit code {done.exit_code}: {done.output[-200:]}"


def put(path: Path, kind: str) -> Path:
    """Put something that is no file at a path."""
    PLACES[kind](path)
    return path


def _bind(path: Path) -> None:
    """Make a socket; its whole path may be longer than the system allows."""
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    finally:
        os.close(folder)


@contextmanager
def _memory_is_bounded(harm: str) -> Iterator[None]:
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    yield
    if (grown := _memory("VmHWM") - before) > MAX_MEMORY:
        raise MemoryError(f"{harm}: {grown / 1e6:.0f} MB")


def _memory(name: str) -> float:
    """Read one of the kernel's figures of this process [bytes]."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _golden(bundle: Path, random: Random) -> None:
    file = bundle / GOLDEN
    with np.load(file) as arrays:
        values = dict(arrays.items())
    name = random.choice(list(values))
    bad = [
        values[name].astype(np.complex64),
        values[name].astype(str),
        values[name][:1],
        values[name].astype(np.float32) * np.float32("nan"),
        np.zeros(0, np.uint8),
        np.zeros((4096, 4096, 3), np.uint8),
        np.array([{"a": 1}], object),
    ]
    values[name] = random.choice(bad)
    if random.random() < 0.2:
        del values[name]
    np.savez_compressed(file, **values)


def _zip(bundle: Path, random: Random) -> None:
    """An archive that says it is much larger than it is, or is."""
    shape = random.choice([(1 << 40,), (1 << 33,), (1 << 20, 1 << 20, 3), (-1,), (1 << 26,)])
    line = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    body = bytes(random.choice([0, 100, 1 << 26]))
    with zipfile.ZipFile(bundle / GOLDEN, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("image.npy", "features.npy"):
            archive.writestr(name, b"\x93NUMPY\x01\x00\x76\x00" + line + body)


def _tokenizer(bundle: Path, random: Random) -> None:
    file = bundle / TOKENIZER
    record = json.loads(file.read_text())
    how = random.randrange(8)
    if how == 0:
        file.write_text("[" * DEEP)
        return
    if how == 1:
        file.write_text('{"a":' * 1000 + "1" + "}" * 1000)
        return
    if how == 2:
        record["model"]["vocab"] = {}
    elif how == 3:
        record["model"]["vocab"] = {word: 2**31 + i for i, word in enumerate(record["model"]["vocab"])}
    elif how == 4:
        record["model"] = {"type": "BPE", "vocab": {"a": 0}, "merges": ["b c"]}
    elif how == 5:
        record["model"]["unk_token"] = "no such word"
    elif how == 6:
        record["pre_tokenizer"] = {"type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated"}
    else:
        record["padding"] = {"strategy": {"Fixed": 2**40}}
    file.write_text(json.dumps(record))


def _graph(bundle: Path, random: Random) -> None:
    file = bundle / random.choice(["vision.onnx", "text.onnx"])
    model = onnx.load(str(file))
    how = random.randrange(9)
    if how == 0:
        file.write_bytes(b"")
        return
    if how == 1:
        file.write_bytes(damage(file.read_bytes(), random))
        return
    if how == 2:
        model.graph.node[0].op_type = "NoSuchOperator"
    elif how == 3:
        del model.graph.node[-1]
    elif how == 4:
        model.graph.node[-1].output[0] = "other"
    elif how == 5:
        model.graph.input[0].name = "other"
    elif how == 6:
        model.graph.input[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    elif how == 7:
        _keep_outside(model.graph.initializer[0], random)
    else:
        model.graph.initializer[0].dims[0] = 2**40
    file.write_bytes(model.SerializeToString())


def _keep_outside(tensor: TensorProto, random: Random) -> None:
    """Let a tensor's data lie in a file outside the bundle."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    places = ["/etc/passwd", "../../../../etc/passwd", "/dev/zero", "bundle.json", "no such file", "."]
    for key, value in (("location", random.choice(places)), ("offset", "0"), ("length", "1000000000000")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _pack(bundle: Path, random: Random) -> None:
    key = embedding_key(load_bundle(bundle), ("a {}", "the {}"))
    words = np.array(["red", "green", "blue", "navy", "white"])
    width = load_bundle(bundle).manifest.text.width
    vectors: np.ndarray = np.zeros((len(words), width), np.float32)
    vectors[:, 0] = 1
    name, value = random.choice(
        [
            ("vectors", vectors * np.float32("nan")),
            ("vectors", vectors.astype(np.complex64)),
            ("vectors", vectors * np.float32(1e30)),
            ("vectors", vectors[:2]),
            ("vectors", vectors[0]),
            ("vectors", np.zeros((5, 1 << 22), np.float32)),
            ("words", np.arange(5)),
            ("words", np.array(5)),
            ("words", words[None]),
            ("words", np.array([["red"], {}], object)),
            ("key", np.arange(7)),
        ]
    )
    arrays = {"key": np.array(key), "words": words, "vectors": vectors} | {name: value}
    (bundle / "vocabularies").mkdir(exist_ok=True)
    np.savez_compressed(bundle / "vocabularies" / "bad.npz", **arrays)
    _change(bundle, lambda record: record["files"].update({"vocabularies/bad.npz": "0" * 64}))


def _manifest(bundle: Path, random: Random) -> None:
    if random.random() < 0.2:
        file = bundle / MANIFEST
        text = random.choice(["[" * DEEP, '{"a":' * DEEP, "\0", "null", "1e999", '"' + "a" * 10**7 + '"', ""])
        file.write_text(text)
        return
    many = [f"{{}} {number}" for number in range(10**5)]
    changes = [
        lambda r: r["windows"].update(size=10**9),
        lambda r: r["windows"].update(stride=1),
        lambda r: r["windows"].update(size=4096, stride=4096),
        lambda r: r["preprocessing"].update(short_side=4096, long_side=8192),
        lambda r: r["preprocessing"].update(long_side=10**12),
        lambda r: r["preprocessing"].update(std=[1e-300] * 3),
        lambda r: r["text"].update(width=8192),
        lambda r: r["text"].update(context_length=1),
        lambda r: r.update(templates=many),
        lambda r: r.update(templates=["{}" * 10**6]),
        lambda r: r["head"].update(scale=1e300),
        lambda r: r["head"].update(bias=-1e300),
        lambda r: r.update(model={"a": many}),
        lambda r: r["files"].update({"a\0b": "0" * 64}),
        lambda r: r["files"].update({"../../etc/passwd": "0" * 64}),
        lambda r: r["files"].update({"/etc/passwd": "0" * 64}),
        lambda r: r["files"].update({f"{number}.bin": "0" * 64 for number in range(10**5)}),
        lambda r: r["graphs"]["vision"].update(file="\0"),
        lambda r: r["graphs"]["vision"].update(file="/dev/zero"),
        lambda r: r["graphs"]["vision"]["inputs"][0].update(shape=["batch", 3, 10**9, 10**9]),
    ]
    _change(bundle, random.choice(changes))


def _change(bundle: Path, change: Callable[[dict], object]) -> None:
    file = bundle / MANIFEST
    record = json.loads(file.read_text())
    change(record)
    file.write_text(json.dumps(record))


def _place(bundle: Path, random: Random) -> None:
    """Put a link, pipe or the like in the place of any file, or beside them."""
    files = sorted(path for path in bundle.rglob("*") if path.is_file())
    file = random.choice([*files, bundle / "extra"])
    file.unlink(missing_ok=True)
    put(file, random.choice(list(PLACES)))


PLACES: MappingProxyType[str, Callable[[Path], object]] = MappingProxyType(
    {
        "folder": Path.mkdir,
        "pipe": os.mkfifo,
        "device": lambda path: path.symlink_to("/dev/zero"),
        "socket": _bind,
        "loop": lambda path: path.symlink_to(path.name),
        "link to nothing": lambda path: path.symlink_to("nothing"),
        "link to a folder": lambda path: path.symlink_to("/etc"),
    }
)
OPTIONS = MappingProxyType(
    {
        "photo": "photo.png",
        "list": "photos.txt",
        "classes": "classes.txt",
        "templates": "templates.txt",
        "model": "model.ovs",
    }
)
HARMS: MappingProxyType[str, Callable[[Path, Random], None]] = MappingProxyType(
    {
        "golden": _golden,
        "archive": _zip,
        "tokenizer": _tokenizer,
        "graph": _graph,
        "pack": _pack,
        "manifest": _manifest,
        "place": _place,
    }
)
