"""Results of a kernel benchmark: plain data, read and written strictly."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ovsdino_benchmarks.results.environment import Environment
from ovsdino_benchmarks.results.results import SkippedBaseline, Times
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.base.regular_file import regular_file

KernelName = Literal["depthwise_block", "preservation_gate", "upsample_argmax"]
Dtype = Literal["fp32", "fp16", "bf16"]
SCHEMA_VERSION = 1


class KernelBenchError(OvsdinoError):
    """The kernels cannot be measured here, or one of them differs from its reference."""


@dataclass(frozen=True)
class WayTime:
    """Time, error and memory of one implementation of a kernel."""

    name: str
    how: str
    times: Times
    error: float  # relative to the reference in FP32 on the same inputs; of labels, the share that differs
    peak: float | None  # [MB] device memory above the inputs; None where it cannot be told


@dataclass(frozen=True)
class KernelResult:
    """The result of a kernel at one size and precision."""

    kernel: KernelName
    dtype: Dtype
    size: str
    megabytes: float  # that must be read and written at least
    floor: float  # [ms] for them at the measured rate of copies
    ways: tuple[WayTime, ...]  # the kernel first
    skipped: tuple[SkippedBaseline, ...]


@dataclass(frozen=True)
class MeasuredDevice:
    """The measured device."""

    name: str
    capability: str  # such as "sm_89"; empty on a CPU
    driver: str
    memory_gb: float
    cache_mb: float  # its last-level cache; 0 where it is not known


@dataclass(frozen=True)
class KernelReport:
    """All results of a run."""

    model: str
    device: MeasuredDevice
    copy_gb_s: float  # measured: read and written
    warmup: int
    results: tuple[KernelResult, ...]
    command: str
    environment: Environment
    schema_version: int = SCHEMA_VERSION
    kind: Literal["ovsdino-kernels"] = "ovsdino-kernels"


def load_kernels(path: Path) -> KernelReport:
    """Read a report of `ovsdino-bench kernels`.

    Raises:
        KernelBenchError: the file is missing, damaged, or of another version or kind.
    """
    try:
        raw = strict_json.loads(regular_file(path).read_text(encoding="utf-8"))
        version = raw.get("schema_version") if isinstance(raw, dict) else None
        if version != SCHEMA_VERSION:
            raise ValueError(f"schema_version {version}, this program reads {SCHEMA_VERSION}")
        return strict_json.parse(KernelReport, raw)
    except FileNotFoundError as error:
        raise KernelBenchError(f"{path}: no such file; `ovsdino-bench kernels` writes one") from error
    except (OSError, ValueError) as error:
        raise KernelBenchError(f"{path}: {error}; not a result of `ovsdino-bench kernels`") from error
