"""Which room may import what: read from the source, and tried in child processes."""

import ast
import graphlib
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE_ROOTS = [str(ROOT), str(ROOT / "export"), str(ROOT / "runtime"), str(ROOT / "benchmarks")]
ENGINES = {"onnxruntime", "openvino", "tensorrt", "tensorrt_rtx", "pycuda", "cuda"}


@dataclass(frozen=True)
class Room:
    folder: str
    anywhere: set[str]  # dotted names: each allows itself and what is below it
    in_functions: set[str] = field(default_factory=set)  # allowed only where a function needs it


PACKAGES = {
    "ovsdino_runtime": Room(
        "runtime/ovsdino_runtime",
        {"numpy", "PIL", "click", "tokenizers"} | {"rich", "typing_extensions"},  # the last two: types
        ENGINES
        | {
            "av",
            "imagecodecs",
            "onnx",
            "pillow_heif",
            "huggingface_hub",
            "pyogrio",
            "rasterio",
            "ray",
            "tifffile",
        },
    ),
    "ovsdino_runtime.integrations": Room(
        "runtime/ovsdino_runtime/integrations",
        {"numpy", "PIL", "fiftyone", "supervision"},  # the last two for type checkers alone
        {"cvat_sdk", "rosbags"},
    ),
    "ovsdino_runtime.demo": Room(
        "runtime/ovsdino_runtime/demo",
        {"numpy", "PIL", "click", "fastapi", "gradio", "starlette", "uvicorn"},
    ),
    "ovsdino_runtime.serve": Room(
        "runtime/ovsdino_runtime/serve",
        {"numpy", "PIL", "click", "fastapi", "prometheus_client", "pydantic", "starlette", "uvicorn"},
        {"fastapi_offline", "triton_python_backend_utils"},
    ),
    "ovsdino": Room(
        "ovsdino",
        {"torch", "torchvision", "timm", "open_clip", "segment_anything", "safetensors", "tokenizers"}
        | {"numpy", "PIL", "click"}
        | {"triton"}  # in one module, which functions import: see the test below
        | {"transformers", "rich"},  # in modules that functions import
        {"matplotlib", "h5py", "huggingface_hub"} | {"ai_edge_litert", "nltk", "ray", "scipy", "yaml"},
    ),
    "ovsdino_export": Room(
        "export/ovsdino_export",
        {"torch", "timm", "open_clip", "onnx", "onnxscript", "safetensors", "segment_anything", "tokenizers"}
        | {"numpy", "PIL", "click"},
        ENGINES | {"triton"},
    ),
    "ovsdino_benchmarks": Room(
        "benchmarks/ovsdino_benchmarks",
        {"numpy", "PIL", "click"},
        {"onnxruntime", "onnx", "torch", "tokenizers", "matplotlib", "rich", "scipy"},
    ),
}
OURS = ("ovsdino", "ovsdino_export", "ovsdino_runtime", "ovsdino_benchmarks")


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
        and name.split(".")[0] not in OURS  # these are the matter of rooms.txt
        and not allowed(name, room.anywhere)
        and not (inside and allowed(name, room.in_functions))
    )


@pytest.mark.parametrize("room", PACKAGES.values(), ids=PACKAGES)
def test_a_package_imports_only_the_libraries_that_it_may(room):
    inner = [ROOT / other.folder for other in PACKAGES.values() if other.folder.startswith(f"{room.folder}/")]
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
        ("ovsdino", "if True:\n    import onnx", ["onnx"]),
        ("ovsdino_export", "import ovsdino_benchmarks, scipy", ["scipy"]),
    ],
)
def test_the_rule_finds_what_breaks_it(room, source, names):
    assert forbidden(source, PACKAGES[room]) == names


def read_rooms(text: str) -> dict[str, set[str]]:
    """Read ``rooms.txt``: each room's dotted name, and the rooms that it may import."""
    rooms: dict[str, set[str]] = {}
    for line in text.splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        if not line.startswith(" "):
            room = line.strip()
            rooms[room] = set()
            continue
        own = room.split(".")[0]
        rooms[room] |= {name if name.split(".")[0] in OURS else f"{own}.{name}" for name in line.split()}
    return rooms


MAY_IMPORT = read_rooms((Path(__file__).parent / "rooms.txt").read_text(encoding="utf-8"))


def module_names() -> dict[str, Path]:
    """Every module of the four packages by its dotted name."""
    names = {}
    for source in SOURCE_ROOTS:
        for package in OURS:
            for path in sorted((Path(source) / package).rglob("*.py")):
                parts = [package, *path.relative_to(Path(source) / package).with_suffix("").parts]
                names[".".join(parts).removesuffix(".__init__")] = path
    return names


def room_of(module: str) -> str:
    """Find the room of a module: the longest name in ``rooms.txt`` that holds it."""
    holders = [room for room in MAY_IMPORT if module == room or module.startswith(f"{room}.")]
    return max(holders, key=len, default=module.split(".", maxsplit=1)[0])


def room_arrows(module: str, source: str, modules: set[str]) -> set[str]:
    """List the rooms that a module imports, without its own and without the packages' ``__init__``."""
    arrows = set()
    for name, _ in imported_names(source):
        target = name if name in modules else name.rpartition(".")[0]
        if target in modules and target not in OURS:
            arrows.add(room_of(target))
    return arrows - {room_of(module)}


def test_a_room_imports_only_the_rooms_that_it_may():
    modules = module_names()
    wrong = {}
    for module, path in modules.items():
        if module in OURS or (room := room_of(module)) in OURS:
            continue  # the surface of a package re-exports; files such as cli.py are rooms of their own
        arrows = room_arrows(module, path.read_text(encoding="utf-8"), set(modules))
        if extra := arrows - MAY_IMPORT[room]:
            wrong[module] = sorted(extra)
    assert not wrong


def test_every_module_has_a_room():
    surfaces = {"ovsdino.cli", "ovsdino.masks", "ovsdino.training"}
    lone = [module for module in module_names() if module not in OURS and room_of(module) in OURS]
    assert set(lone) <= surfaces | {"ovsdino_runtime.segmenter"}, lone


def test_no_room_imports_itself_through_others():
    order = list(graphlib.TopologicalSorter(MAY_IMPORT).static_order())  # raises CycleError
    assert order.index("ovsdino_runtime.geometry") < order.index("ovsdino_runtime.segmenter")


def test_every_room_exists_and_no_arrow_is_stale():
    modules = module_names()
    assert {room for room in MAY_IMPORT if room not in modules} == set()
    used: dict[str, set[str]] = {room: set() for room in MAY_IMPORT}
    for module, path in modules.items():
        if room_of(module) in used:
            used[room_of(module)] |= room_arrows(module, path.read_text(encoding="utf-8"), set(modules))
    assert {room: names - used[room] for room, names in MAY_IMPORT.items() if names - used[room]} == {}


def test_the_rooms_rule_finds_what_breaks_it():
    modules = set(module_names())
    source = "def f():\n    from ovsdino_runtime.segmenter import Segmenter"
    assert room_arrows("ovsdino_runtime.base.photo", source, modules) == {"ovsdino_runtime.segmenter"}
    assert "ovsdino_runtime.segmenter" not in MAY_IMPORT["ovsdino_runtime.base"]


def run_python(code: str, *, without: tuple[str, ...]) -> None:
    """Run code in a child process where the given packages cannot be imported."""
    block = "".join(f"sys.modules[{name!r}] = None\n" for name in without)
    prelude = f"import sys\nsys.path[:0] = {SOURCE_ROOTS!r}\n{block}"
    done = subprocess.run([sys.executable, "-c", prelude + code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_runtime_needs_neither_torch_nor_an_engine_to_import():
    modules = [
        name
        for name in module_names()
        if name.startswith("ovsdino_runtime.") and name.split(".")[1] not in {"demo", "serve"}
    ]
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
