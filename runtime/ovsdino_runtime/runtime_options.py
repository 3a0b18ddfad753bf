"""Which model, and how it is to run: what is the same for every process that takes part."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from ovsdino_runtime.base.trace import NO_TRACE, Trace
from ovsdino_runtime.bundle.bundle import Precision
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.pipelines.host_stages import Windows
from ovsdino_runtime.segmenter import Segmenter


@dataclass(frozen=True)
class ModelChoice:
    """The arguments of `Segmenter.load`."""

    model: str
    device: str = "cpu"
    engine: str = "onnxruntime"
    threads: int | None = None
    precision: Precision = "fp32"
    templates: tuple[str, ...] | None = None
    windows: Windows = "model"
    short_side: int | None = None

    def load(self, trace: Trace = NO_TRACE) -> Segmenter:
        """Open the model; see `Segmenter.load`."""
        return Segmenter.load(**asdict(self), trace=trace)

    def for_others(self) -> "ModelChoice":
        """Name the model so that processes elsewhere find it: a path from the root, or a packaged name.

        Raises:
            BundleError: there is none.
        """
        path = find_bundle(self.model)
        return replace(self, model=str(path.resolve())) if Path(self.model).exists() else self
