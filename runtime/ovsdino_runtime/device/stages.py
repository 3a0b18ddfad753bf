"""Stages of the device pipeline. Each submits its work to a stream and returns immediately.

photo - CutWindows ---> vision engine ---> features (B, D, h, w)
words ---------------------------------------> text (N, D)       LabelPixels --> labels (H, W)
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.kernels import Kernel, Operator, choose_kernel
from ovsdino_runtime.cuda.driver import CudaStream, Device, Launch
from ovsdino_runtime.device.plan import PhotoPlan
from ovsdino_runtime.engines.stream_engine import DeviceTensor, StreamEngine

AROUND: tuple[Operator, ...] = ("PhotoWindows", "CosineScores", "MergeArgmax")  # the vision engine
Addresses = Mapping[str, int]  # by the name of a region of the arena, or of a table of the plan


@dataclass(frozen=True)
class CutWindows:
    """Resize and normalise a photo and cut windows out of it, in one kernel."""

    launch: Launch
    size: int  # a window's side [px]

    def __call__(
        self, plan: PhotoPlan, at: Addresses, *, first: int, batch: int, pixels: int, stream: CudaStream
    ) -> None:
        """Cut the windows of a batch. Shape: (H, W, 3) uint8 -> pixels (batch, 3, S, S)."""
        tables = {name[4:]: address for name, address in at.items() if name.startswith("cut.")}
        numbers = {
            "width": plan.photo[1],
            "across": plan.across,
            "first": first,
            "row_taps": plan.tables["cut.row_weights"].shape[1],
            "column_taps": plan.tables["cut.column_weights"].shape[1],
            "size": self.size,
            "near": 2 if plan.stretched else 1,
            "antialias": int(plan.antialias),
            "area": self.size**2,
            "batch": batch,
        }
        self.launch(stream, {"photo": at["photo"], "pixels": pixels} | tables | numbers)


@dataclass(frozen=True)
class EncodeBatch:
    """Compute the features of a batch of windows: one run of the vision engine, in one of its contexts."""

    engine: StreamEngine
    size: int  # a window's side [px]
    width: int  # D

    def __call__(
        self, plan: PhotoPlan, at: Addresses, *, context: int, first: int, batch: int, stream: CudaStream
    ) -> None:
        """Encode the windows of a batch. Shape: (batch, 3, S, S) -> features (batch, D, h, w), in place."""
        shape = (batch, self.width, *plan.grid)
        start = at["features"] + 4 * first * self.width * plan.grid[0] * plan.grid[1]
        pixels = DeviceTensor(at[f"pixels.{context}"], (batch, 3, self.size, self.size))
        features = DeviceTensor(start, shape)
        self.engine.enqueue(context, {"pixels": pixels}, outputs={"features": features}, stream=stream)


@dataclass(frozen=True)
class LabelPixels:
    """Compute labels from features and embeddings: cosines, merge of windows, best class, background.

    Classes are processed in portions, so that memory does not grow with their number.
    """

    scores: Launch
    merge: Launch
    width: int  # D

    def __call__(
        self, plan: PhotoPlan, at: Addresses, *, classes: int, background: bool, stream: CudaStream
    ) -> None:
        """Label the photo. Shape: (B, D, h, w), (N, D) -> labels (H, W) uint16, confidence (H, W) float16."""
        for first in range(0, classes, plan.classes_at_once):
            count = min(plan.classes_at_once, classes - first)
            portion = {"first": first, "classes": count, "plane": plan.plane}
            numbers = portion | {
                "windows": plan.windows,
                "channels": self.width,
                "area": plan.grid[0] * plan.grid[1],
                "last": int(first + count == classes),
                "offset": int(background),
                "row_count": plan.tables["merge.row_nodes"].shape[1],
                "column_count": plan.tables["merge.column_nodes"].shape[1],
                "height": plan.photo[0],
                "width": plan.photo[1],
            }
            tables = {name[6:]: address for name, address in at.items() if name.startswith("merge.")}
            self.scores(stream, {**at, **numbers})
            self.merge(stream, {**at, **tables, **numbers})


@dataclass(frozen=True)
class DeviceKernels:
    """The kernels of a bundle, loaded on a device."""

    cut: Launch
    scores: Launch
    merge: Launch
    tile: tuple[int, int]  # of the merging kernel [px]


def choose_kernels(bundle: Bundle, gpu: str) -> dict[Operator, Kernel]:
    """Choose the kernels around the vision engine for a GPU.

    Args:
        bundle: the model.
        gpu: compute capability of the GPU, such as "sm_89".

    Raises:
        EngineError: the bundle has no kernel for this GPU; the message holds the command that makes them.
    """
    kernels = bundle.manifest.kernels
    return {
        operator: choose_kernel(kernels, operator, gpu=gpu, dtype="float32", constants={})
        for operator in AROUND
    }


def load_kernels(bundle: Bundle, device: Device) -> DeviceKernels:
    """Load the kernels around the vision engine.

    Raises:
        EngineError: as `choose_kernels`, or the driver rejects a kernel.
    """
    chosen = choose_kernels(bundle, device.capability)
    cut, scores, merge = (
        device.load(chosen[operator], bundle.file(chosen[operator].file).read_bytes()) for operator in AROUND
    )
    constants = chosen["MergeArgmax"].constants
    return DeviceKernels(cut=cut, scores=scores, merge=merge, tile=(constants["rows"], constants["columns"]))
