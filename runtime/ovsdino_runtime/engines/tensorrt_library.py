"""TensorRT's library: its import, its error messages, and advice if it does not start."""

import importlib
from collections import deque
from collections.abc import Callable, Sequence
from importlib import metadata
from types import ModuleType
from typing import Any, TypeAlias

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.cuda.devices import Gpu, find_gpus
from ovsdino_runtime.engines.cache import Flavour

Trt: TypeAlias = Any  # an object of TensorRT, which ships no types
MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "rtx"}
MAX_REASONS = 4  # messages of TensorRT in one error
# CUDA of a wheel -> the oldest driver that runs it on Linux (NVIDIA, CUDA compatibility, table 1).
OLDEST_DRIVERS = {12: "525.60", 13: "580.65"}


def import_flavour(flavour: Flavour) -> ModuleType:
    """Import TensorRT or TensorRT for RTX.

    Raises:
        EngineError: it is not installed, or its libraries cannot be loaded.
    """
    try:
        return importlib.import_module(MODULES[flavour])
    except (ImportError, OSError) as error:  # OSError: a library of it is missing
        jetson = "; on a Jetson use the one of JetPack" if flavour == "tensorrt" else ""
        raise EngineError(
            f"{flavour} needs the package {MODULES[flavour]}, which cannot be imported ({error}): "
            f"{install_command(EXTRAS[flavour])}{jetson}"
        ) from error


class ErrorRecorder:
    """Collect TensorRT's error messages, to quote them in ours.

    Pass its ``logger`` to builder, parser and runtime; objects that they create use it as well.

    Args:
        trt: TensorRT's Python module.
    """

    def __init__(self, trt: ModuleType) -> None:
        self._messages: deque[str] = deque(maxlen=64)
        self.logger = make_logger(trt, self._messages.append)

    def reasons(self, otherwise: str = "it gave no reason") -> str:
        """Return the errors since the last call in one line; ``otherwise`` if there are none."""
        messages = []
        while self._messages:
            messages.append(" ".join(self._messages.popleft().split()))
        return "; ".join(list(dict.fromkeys(messages))[:MAX_REASONS]) or otherwise


def make_logger(trt: ModuleType, record: Callable[[str], None]) -> Trt:
    """Create a logger that records only errors; its base class exists only after TensorRT is imported."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        """Pass errors to ``record``."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Trt, message: str) -> None:
            """Called by TensorRT, from any of its threads."""
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                record(message)

    return Logger()


def make(
    what: str, factory: Callable[[], Trt], *, flavour: Flavour, version: str, errors: ErrorRecorder
) -> Trt:
    """Call a factory of TensorRT, and turn a null result into an error.

    Args:
        what: kind of the object, such as "builder".
        factory: returns None, or raises TypeError, if TensorRT returns a null pointer.
        flavour, version: flavour and version of TensorRT.
        errors: recorder of the logger that the factory uses.

    Raises:
        EngineError: the factory failed; the message holds TensorRT's reason, or compares driver and CUDA.
    """
    try:
        made = factory()
    except TypeError as error:  # pybind11: "factory function returned nullptr"
        if "nullptr" not in str(error):
            raise
        made = None
    if made is None:
        reason = errors.reasons(driver_advice(flavour, version) or "it gave no reason")
        raise EngineError(f"{flavour} {version} makes no {what}: {reason}")
    return made


def driver_advice(flavour: Flavour, version: str, gpus: Sequence[Gpu] | None = None) -> str:
    """Explain that the driver is too old for the CUDA that TensorRT needs; "" if it is not.

    Args:
        flavour, version: flavour and version of TensorRT.
        gpus: GPUs of this machine; None asks the driver.
    """
    needed = cuda_of(flavour, version)
    gpu = next(iter(find_gpus() if gpus is None else gpus), None)
    if gpu is None:
        return "no NVIDIA GPU or driver answers, see `ovsdino doctor`"
    major = gpu.cuda.partition(".")[0]
    if not major.isdigit() or int(major) >= needed:
        return ""
    oldest = OLDEST_DRIVERS.get(needed)
    return (
        f"it needs CUDA {needed}, the driver here ({gpu.driver}) runs CUDA {gpu.cuda}; update the driver"
        f"{f' to {oldest} or later' if oldest else ''}, or install the {flavour} for CUDA {major}"
    )


def cuda_of(flavour: Flavour, version: str) -> int:
    """Return the major version of the CUDA that an installed TensorRT was built for.

    The package name contains it, as in ``tensorrt_cu12``; otherwise TensorRT 11 and later need CUDA 13.
    """
    base = MODULES[flavour]
    for major in sorted(OLDEST_DRIVERS):
        for name in (f"{base}_cu{major}", f"{base}_cu{major}_bindings"):
            try:
                if metadata.version(name) == version:
                    return major
            except metadata.PackageNotFoundError:  # noqa: PERF203 - that is the question
                continue
    return 13 if int(version.partition(".")[0]) >= 11 else 12
