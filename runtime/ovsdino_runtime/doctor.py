"""The command ``ovsdino doctor``: report installed packages, GPUs, engines and known faults.

Packages are inspected without importing them, so that a broken package is reported and does not crash.
"""

import json
import platform
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from typing import Literal

import click

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.cuda.devices import Gpu, find_gpus
from ovsdino_runtime.engines.cache import FLAVOURS, EngineRecord, engines_dir, list_engines
from ovsdino_runtime.engines.tensorrt_library import cuda_of, driver_advice

Level = Literal["ok", "note", "warning"]
MARKS: dict[Level, str] = {"ok": "ok  ", "note": "note", "warning": "WARN"}
DATA = "known_bad.json"
RUNTIME_PACKAGES = ("numpy", "pillow", "tokenizers")
ENGINES = {  # package -> its extra, and what it is for
    "onnxruntime": ("cpu", "runs bundles on a CPU"),
    "onnxruntime-gpu": ("cuda", "runs bundles on a CPU or a GPU"),
    "tensorrt": ("tensorrt", "builds and runs engines for the GPU of this machine"),
    "tensorrt-rtx": ("rtx", "builds engines for desktop GPUs, with or without one here"),
}
EXPORT_PACKAGES = ("torch", "onnx", "timm", "triton")
CUDA_PACKAGES = ("cuda-bindings", "pycuda")  # either runs --device cuda
OWN_PACKAGE = "ovsdino"
OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 13)
RTX_GPUS = {"sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121"}  # of TensorRT for RTX 1.7


@dataclass(frozen=True)
class Finding:
    """A fact about this machine, and its consequence for the user."""

    level: Level
    what: str
    meaning: str = ""

    def __str__(self) -> str:
        """Return one line; a second one if there is a consequence."""
        line = f"{MARKS[self.level]}  {self.what}"
        return f"{line}\n        {self.meaning}" if self.meaning else line


@dataclass(frozen=True)
class KnownBad:
    """A range of package versions with a known fault."""

    package: str
    since: str
    below: str
    model: str  # that it concerns; "" for all, "jetson" for a kind of machine
    finding: str
    meaning: str


def examine() -> list[Finding]:
    """Examine Python, packages, GPUs and engines of this machine."""
    versions = installed_versions()
    gpus = find_gpus()
    return [
        *examine_python(),
        *examine_packages(versions),
        *examine_extras(),
        *examine_gpus(gpus, versions),
        *examine_cuda(gpus, versions),
        *examine_known_bad(versions),
        *examine_engines(gpus, versions),
    ]


def installed_versions() -> dict[str, str]:
    """Return the versions of all relevant packages that are installed."""
    versions = {}
    for name in (*RUNTIME_PACKAGES, *ENGINES, *EXPORT_PACKAGES, *CUDA_PACKAGES):
        if version := version_of(name):
            versions[name] = version
    return versions


def version_of(package: str) -> str | None:
    """Return a package's version, None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def examine_python() -> Iterator[Finding]:
    """Compare Python with the versions that this package is tested on."""
    what = f"Python {platform.python_version()} on {platform.system()} {platform.machine()}"
    if OLDEST_PYTHON <= sys.version_info[:2] <= NEWEST_PYTHON:
        yield Finding("ok", what)
    else:
        yield Finding("warning", what, "tested on 3.10 to 3.13; packages may have no wheels for this one")


def examine_packages(versions: dict[str, str]) -> Iterator[Finding]:
    """Report installed packages, and what missing ones are needed for."""
    yield Finding("ok", ", ".join(f"{name} {versions.get(name, 'MISSING')}" for name in RUNTIME_PACKAGES))
    for name, (extra, purpose) in ENGINES.items():
        if name in versions:
            yield Finding("ok", f"{name} {versions[name]}: {purpose}")
        else:
            yield Finding("note", f"{name} is not installed", f"it {purpose}: {install_command(extra)}")
    if "onnxruntime" in versions and "onnxruntime-gpu" in versions:
        yield Finding(
            "warning",
            "onnxruntime and onnxruntime-gpu are both installed",
            "they overwrite each other's files: uninstall both, then install the one that you want",
        )
    if not {"onnxruntime", "onnxruntime-gpu"} & versions.keys():
        yield Finding("warning", "no ONNX Runtime", f"`ovsdino run` has no engine: {install_command('cpu')}")
    missing = [name for name in EXPORT_PACKAGES if name not in versions]
    present = ", ".join(f"{name} {versions[name]}" for name in EXPORT_PACKAGES if name in versions)
    if missing:
        cure = f"only `ovsdino export` and training need them: {install_command('export')}"
        yield Finding("note", f"not installed: {', '.join(missing)}", cure)
    if present:
        yield Finding("ok", present)


def examine_extras() -> Iterator[Finding]:
    """Report for each extra whether all of its packages are installed."""
    wanted = required_packages()
    if not wanted:
        return
    complete = [extra for extra, names in wanted.items() if all(version_of(name) for name in names)]
    yield Finding("ok", f"complete extras: {', '.join(complete) or 'none'}")
    for extra, names in wanted.items():
        missing = [name for name in names if not version_of(name)]
        if missing:
            meaning = f"lacks {', '.join(missing)}: {install_command(extra)}"
            yield Finding("note", f"extra {extra} is not complete", meaning)


def required_packages() -> dict[str, list[str]]:
    """Return the packages of each extra on this machine; empty if this package is not installed.

    Requirements for other platforms are left out; versions are not compared.
    """
    try:
        requirements = metadata.requires(OWN_PACKAGE) or []
    except metadata.PackageNotFoundError:
        return {}
    packages: dict[str, list[str]] = {}
    for requirement in requirements:
        extra = re.search(r"""extra == ["']([\w-]+)["']""", requirement)
        name = re.match(r"[\w.-]+", requirement)
        if extra is None or name is None or name[0] == OWN_PACKAGE or not meets_platform(requirement):
            continue
        packages.setdefault(extra[1], []).append(name[0])
    return packages


def meets_platform(requirement: str) -> bool:
    """Tell whether this machine meets a requirement's conditions on platform and processor."""
    here = {
        "platform_system": platform.system(),
        "platform_machine": platform.machine(),
        "sys_platform": sys.platform,
    }
    conditions = re.findall(r"""(\w+) (==|!=) ["']([^"']+)["']""", requirement)
    return all(
        (here[name] == value) == (operator == "==") for name, operator, value in conditions if name in here
    )


def examine_cuda(gpus: Sequence[Gpu], versions: dict[str, str]) -> Iterator[Finding]:
    """Compare the driver with the CUDA that the installed packages were built for."""
    present = [f"{name} {versions[name]}" for name in CUDA_PACKAGES if name in versions]
    if present:
        yield Finding("ok", f"CUDA from Python: {', '.join(present)}")
    elif gpus:
        yield Finding("note", "neither cuda-python nor pycuda", f"--device cuda: {install_command('cuda')}")
    for flavour in FLAVOURS:
        if flavour not in versions or not gpus:
            continue
        needed = cuda_of(flavour, versions[flavour])
        what = (
            f"{flavour} {versions[flavour]} is for CUDA {needed}, the driver runs CUDA {gpus[0].cuda or '?'}"
        )
        if advice := driver_advice(flavour, versions[flavour], gpus):
            yield Finding("warning", what, advice)
        else:
            yield Finding("ok", what)


def examine_gpus(gpus: Sequence[Gpu], versions: dict[str, str]) -> Iterator[Finding]:
    """Report the GPUs, and which engines they support."""
    if not gpus:
        yield Finding(
            "note",
            "no NVIDIA GPU, or its driver does not answer",
            "bundles run on the CPU; engines for other machines: --engine tensorrt-rtx --gpu sm_89",
        )
    for gpu in gpus:
        memory = f", {gpu.memory} MiB" if gpu.memory else ""
        yield Finding("ok", f"{gpu.name} ({gpu.capability}{memory}), driver {gpu.driver}")
        if "tensorrt-rtx" in versions and gpu.capability not in RTX_GPUS:
            yield Finding(
                "warning",
                f"TensorRT for RTX does not know {gpu.capability}",
                f"use TensorRT: {install_command('tensorrt')}, on a Jetson the one of JetPack",
            )


def examine_known_bad(versions: dict[str, str]) -> Iterator[Finding]:
    """Report installed versions with known faults."""
    for bad in load_known_bad():
        installed = versions.get(bad.package)
        if installed is None or not as_numbers(bad.since) <= as_numbers(installed) < as_numbers(bad.below):
            continue
        if bad.model == "jetson" and platform.machine() != "aarch64":
            continue
        yield Finding("warning", f"{bad.package} {installed}: {bad.finding}", bad.meaning)


def examine_engines(gpus: Sequence[Gpu], versions: dict[str, str]) -> Iterator[Finding]:
    """Report for every engine in the cache whether it is intact and fits this machine."""
    records, broken = list_engines()
    if not records and not broken:
        yield Finding("ok", f"no engines in {engines_dir()}")
    for path in broken:
        yield Finding("warning", f"{path}: damaged", "`ovsdino-export --clear-engines` removes it")
    for record in records:
        yield examine_engine(record, gpus, versions)


def examine_engine(record: EngineRecord, gpus: Sequence[Gpu], versions: dict[str, str]) -> Finding:
    """Report whether an engine can run here."""
    key = record.key
    built = f"{key.flavour} {key.version}"
    what = f"engine of {record.model} {record.graph} for {', '.join(key.capabilities)}, {built}"
    installed = versions.get(key.flavour)
    if installed != key.version:
        meaning = (
            f"here is {key.flavour} {installed or '-, not installed'}: it will not be loaded; build it again"
        )
        return Finding("warning", what, meaning)
    misfits = [list(key.misfits(key, gpu)) for gpu in gpus]
    if gpus and all(misfits):
        return Finding("note", what, f"not for this machine: {misfits[0][0]}")
    return Finding("ok", what)


def load_known_bad() -> list[KnownBad]:
    """Read the packaged table of versions with known faults."""
    text = (resources.files("ovsdino_runtime") / "data" / DATA).read_text(encoding="utf-8")
    rows = json.loads(text)
    return [strict_json.parse(KnownBad, {"since": row.pop("from"), **row}, DATA) for row in rows]


def as_numbers(version: str) -> tuple[int, ...]:
    """Parse the leading numbers of a version, such as "10.3.0.26", into a tuple that compares."""
    numbers: list[int] = []
    for part in version.partition("+")[0].split("."):
        digits = part[: next((i for i, c in enumerate(part) if not c.isdigit()), len(part))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino doctor",),
)
def doctor() -> None:
    """Check this machine: packages, GPUs, drivers, engines and known faults, with advice for each."""
    findings = examine()
    click.echo("\n".join(map(str, findings)))
    warnings = sum(finding.level == "warning" for finding in findings)
    click.echo(f"\n{warnings} warnings" if warnings else "\nnothing is wrong")
