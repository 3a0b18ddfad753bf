"""Buffers of a dinov3.seg pipeline on a device: all tensors between its graphs, and their pinned copies."""

import math
from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from ovsdino_runtime.cuda.arena import Arena, Reserved
from ovsdino_runtime.cuda.driver import Block, Device, Pinned
from ovsdino_runtime.engines.stream_engine import DeviceTensor
from ovsdino_runtime.geometry.types import Floats

Shapes = Mapping[str, tuple[int, ...]]
R = TypeVar("R", bound=Reserved)


class TensorArena:
    """FP32 tensors by name, each on the device and in pinned memory; grows only if larger ones come.

    Args:
        device: whose memory.
        shapes: of the tensors that get room at once.
    """

    def __init__(self, device: Device, shapes: Shapes) -> None:
        self._device: Arena[Block] = Arena(device.allocate, 0)
        self._pinned: Arena[Pinned] = Arena(device.pin, 0)
        self.at: dict[str, DeviceTensor] = {}
        self.host: dict[str, Floats] = {}
        self.lay_out(shapes)

    @property
    def allocations(self) -> int:
        """Count how often memory was taken."""
        return self._device.allocations + self._pinned.allocations

    def lay_out(self, shapes: Shapes) -> None:
        """Place other tensors; what lay here before is lost, and nothing may be in flight."""
        sizes = {name: 4 * math.prod(shape) for name, shape in shapes.items()}
        self.host = {}  # views of memory that may be freed now
        on_device, on_host = self._device.lay_out(sizes), self._pinned.lay_out(sizes)
        base, raw = _block(self._device).address, _block(self._pinned).array
        self.at = {name: DeviceTensor(base + on_device[name], shape) for name, shape in shapes.items()}
        self.host = {
            name: raw[on_host[name] :][: sizes[name]].view(np.float32).reshape(shape)
            for name, shape in shapes.items()
        }

    def free(self) -> None:
        """Free the memory."""
        self.host = {}
        self._device.free()
        self._pinned.free()


class Dinov3segMemory:
    """All tensors of a pipeline: those of a photo, of fixed sizes, and those of the classes.

    Args:
        device: whose memory.
        shapes: of the photo's tensors.
    """

    def __init__(self, device: Device, shapes: Shapes) -> None:
        self.photo = TensorArena(device, shapes)
        self.classes = TensorArena(device, {})

    @property
    def allocations(self) -> int:
        """Count how often memory was taken; in the steady state the number stays."""
        return self.photo.allocations + self.classes.allocations

    def free(self) -> None:
        """Free the memory."""
        self.photo.free()
        self.classes.free()


def part_of(place: DeviceTensor, first: int, count: int) -> DeviceTensor:
    """Return where some rows of a tensor lie. Shape: (n, ...) -> (count, ...)."""
    row = 4 * math.prod(place.shape[1:])
    return DeviceTensor(place.address + first * row, (count, *place.shape[1:]))


def _block(arena: Arena[R]) -> R:
    if arena.block is None:
        raise RuntimeError("the pipeline is closed")
    return arena.block
