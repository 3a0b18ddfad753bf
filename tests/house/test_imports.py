"""Which room may import what: read from the source, and tried in child processes."""

import ast
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = [str(ROOT), str(ROOT / "export"), str(ROOT / "runtime"), str(ROOT / "benchmarks")]
ENGINES = {"onnxruntime", "tensorrt", "tensorrt_rtx", "pycuda"}


@dataclass(frozen=True)
class Room:
    folder: str
    anywhere: set[str]  # dotted names: each allows itself and what is below it
    in_functions: set[str] = field(default_factory=set)  # allowed only where a function needs it


ROOMS = {
    "ovsdino_runtime": Room(
        "runtime/ovsdino_runtime",
        {"ovsdino_runtime", "numpy", "PIL", "click", "tokenizers"},
        ENGINES | {"av", "ray"},
    ),
    "ovsdino_runtime.demo": Room(
        "runtime/ovsdino_runtime/demo",
        {"ovsdino_runtime", "numpy", "PIL", "click"} | {"fastapi", "gradio", "starlette", "uvicorn"},
    ),
    "ovsdino_runtime.serve": Room(
        "runtime/ovsdino_runtime/serve",
        {"ovsdino_runtime", "numpy", "PIL", "click"}
        | {"fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"},
        {"triton_python_backend_utils"},
    ),
    "ovsdino": Room(
        "ovsdino",
        {
            "ovsdino",
            "torch",
            "torchvision",
            "timm",
            "open_clip",
            "segment_anything",
            "safetensors",
            "tokenizers",
        }
        | {"numpy", "PIL", "click"}
        | {"triton"}  # in one module, which functions import: see the test below
        | {f"ovsdino_runtime.{m}" for m in ("windows", "preprocess", "photo", "vocabulary", "errors")}
        | {f"ovsdino_runtime.{m}" for m in ("rle", "strict_json", "merge", "metrics")}
        | {
            f"ovsdino_runtime.{m}"
            for m in ("cache", "refusal", "out_folder", "labelled_photos", "photo_files", "ray_cluster")
        }
        | {"transformers", "rich"},  # in modules that functions import
        {"matplotlib", "huggingface_hub"} | {"ai_edge_litert", "nltk", "ray", "scipy", "yaml"},
    ),
    "ovsdino_export": Room(
        "export/ovsdino_export",
        {"ovsdino_export", "ovsdino", "ovsdino_runtime", "torch", "timm", "open_clip", "onnx", "onnxscript"}
        | {"safetensors", "segment_anything", "tokenizers", "numpy", "PIL", "click"},
        ENGINES | {"triton"},
    ),
    "ovsdino_benchmarks": Room(
        "benchmarks/ovsdino_benchmarks",
        {"ovsdino_benchmarks", "ovsdino_runtime", "numpy", "PIL", "click"},
        {"onnxruntime", "onnx", "torch", "ovsdino", "tokenizers", "matplotlib", "rich", "scipy"},
    ),
}


def imported_names(source: str) -> list[tuple[str, bool]]:
    """Every absolute import as (dotted name, inside a function); `from a import b` is `a.b`."""
    found: list[tuple[str, bool]] = []

    def walk(node: ast.AST, inside: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            found.extend((f"{node.module}.{alias.name}", inside) for alias in node.names)
        inside = inside or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for child in ast.iter_child_nodes(node):
            walk(child, inside)

    walk(ast.parse(source), False)
    return found


def forbidden(source: str, room: Room) -> list[str]:
    """The imports of a file that its room does not allow where they stand."""

    def allowed(name: str, names: set[str]) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in names)

    return sorted(
        name
        for name, inside in imported_names(source)
        if name.split(".")[0] not in sys.stdlib_module_names
        and not allowed(name, room.anywhere)
        and not (inside and allowed(name, room.in_functions))
    )


@pytest.mark.parametrize("room", ROOMS.values(), ids=ROOMS)
def test_a_room_imports_only_what_it_may(room):
    inner = [ROOT / other.folder for other in ROOMS.values() if other.folder.startswith(f"{room.folder}/")]
    files = [
        path
        for path in sorted((ROOT / room.folder).rglob("*.py"))
        if not any(path.is_relative_to(folder) for folder in inner)
    ]
    assert files, f"no Python in {room.folder}"
    found = {str(path.relative_to(ROOT)): forbidden(path.read_text(encoding="utf-8"), room) for path in files}
    assert not {path: names for path, names in found.items() if names}


@pytest.mark.parametrize(
    ("room", "source", "names"),
    [
        ("ovsdino_runtime", "import torch.nn as nn", ["torch.nn"]),
        ("ovsdino_runtime", "import onnxruntime", ["onnxruntime"]),
        ("ovsdino_runtime", "def f():\n    import onnxruntime", []),
        ("ovsdino_runtime", "def f():\n    from torch import nn", ["torch.nn"]),
        ("ovsdino_runtime", "from ovsdino.network.config import PRESETS", ["ovsdino.network.config.PRESETS"]),
        ("ovsdino", "from ovsdino_runtime.geometry.windows import plan_windows", []),
        (
            "ovsdino",
            "from ovsdino_runtime.bundle.bundle import load_bundle",
            ["ovsdino_runtime.bundle.bundle.load_bundle"],
        ),
        ("ovsdino", "from ovsdino_runtime import bundle", ["ovsdino_runtime.bundle.bundle"]),
        ("ovsdino", "if True:\n    import onnx", ["onnx"]),
        ("ovsdino_export", "import ovsdino_benchmarks", ["ovsdino_benchmarks"]),
    ],
)
def test_the_rule_finds_what_breaks_it(room, source, names):
    assert forbidden(source, ROOMS[room]) == names


def run_python(code: str, *, without: tuple[str, ...]) -> None:
    """Run code in a child process where the given packages cannot be imported."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    prelude = f"import sys\nsys.path[:0] = {SOURCE_ROOTS!r}\n{block}"
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


RUNTIME_MODULES = sorted(path.stem for path in (ROOT / "runtime/ovsdino_runtime").glob("*.py"))


def test_the_runtime_needs_neither_torch_nor_an_engine_to_import():
    modules = [f"ovsdino_runtime.{name}" for name in RUNTIME_MODULES if not name.startswith("__")]
    code = "import importlib\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules)
    run_python(code, without=("torch", "ovsdino", "ovsdino_export", *sorted(ENGINES)))


@pytest.mark.parametrize("arguments", [["--help"], ["no-such-verb"], ["--version"]])
def test_the_group_answers_without_any_room(arguments):
    code = f"import ovsdino.cli\novsdino.cli.main({arguments!r}, standalone_mode=False)"
    if arguments == ["no-such-verb"]:
        code = f"import click, pytest\nwith pytest.raises(click.UsageError):\n    exec({code!r})"
    run_python(code, without=("torch", "numpy", "PIL", "onnxruntime", "ovsdino_runtime", "ovsdino_export"))


def test_the_commands_show_their_help_without_torch():
    commands = (
        ("ovsdino_runtime.cli", "run"),
        ("ovsdino_export.cli", "export"),
        ("ovsdino.training.cli", "train"),
    )
    for module, attribute in commands:
        code = f"from {module} import {attribute}\n{attribute}(['--help'], standalone_mode=False)"
        run_python(code, without=("torch", "onnx", "timm", "onnxruntime"))


def test_the_network_needs_no_triton():
    code = "import ovsdino.network.model, ovsdino.kernels.ops\nassert not ovsdino.kernels.ops.has_triton()"
    run_python(code, without=("triton", "ovsdino_export"))
    importers = {
        path.name
        for path in (ROOT / "ovsdino").rglob("*.py")
        for name, inside in imported_names(path.read_text(encoding="utf-8"))
        if name.split(".")[0] == "triton" and not inside
    }
    assert importers == {"device_kernels.py", "triton_kernels.py"}
