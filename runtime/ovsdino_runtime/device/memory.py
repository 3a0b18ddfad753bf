"""Memory of a device pipeline: arenas on the device and on the host, allocated when the pipeline opens."""

from collections.abc import Mapping
from typing import TypeVar

import numpy as np

from ovsdino_runtime.cuda.arena import ALIGNMENT, Arena, Reserved
from ovsdino_runtime.cuda.driver import Block, Device, Pinned
from ovsdino_runtime.device.plan import SCORES_BYTES, PhotoPlan
from ovsdino_runtime.geometry.types import Array, Floats

CLASSES = 256  # the embeddings of this many classes fit without another allocation
R = TypeVar("R", bound=Reserved)
HEAD = 12  # [bytes] scale, bias and threshold


class DeviceMemory:
    """Hold the buffers of one photo size and of the class embeddings.

    Args:
        device: allocates the memory.
        plan: plan of the largest photo that fits without another allocation.
        pixels: size of the windows of one engine context [bytes].
        contexts: number of engine contexts.
        features: size of the features of one window [bytes].
        width: D, the width of an embedding.
    """

    def __init__(
        self, device: Device, plan: PhotoPlan, *, pixels: int, contexts: int, features: int, width: int
    ) -> None:
        self._pixels, self._contexts, self._features = pixels, contexts, features
        self._at: dict[str, int] = {}
        self.host: dict[str, Array] = {}  # pinned arrays by the name of their region on the device
        self.text_address = 0
        on_device, on_host = self._regions(plan), self._host_regions(plan)
        self._arena: Arena[Block] = Arena(device.allocate, _total(on_device))
        self._pinned: Arena[Pinned] = Arena(device.pin, _total(on_host))
        self._text: Arena[Block] = Arena(device.allocate, 4 * CLASSES * width)
        self._pinned_text: Arena[Pinned] = Arena(device.pin, 4 * CLASSES * width)
        self._pinned_features: Arena[Pinned] = Arena(device.pin, 0)  # grows on the first `pin_features`

    @property
    def allocations(self) -> int:
        """Number of allocations so far; constant once the largest photo has been seen."""
        return sum(arena.allocations for arena in self._arenas)

    @property
    def at(self) -> Mapping[str, int]:
        """Device addresses of the regions and of the plan's tables, by name."""
        return {**self._at, "text": self.text_address}

    def lay_out(self, plan: PhotoPlan) -> None:
        """Lay the regions out for another photo size. No work may be in flight."""
        starts = self._arena.lay_out(self._regions(plan))
        base = _block(self._arena).address
        self._at = {name: base + start for name, start in starts.items()}
        self._at |= {name: self._at["tables"] + start for name, start in plan.table_starts.items()}
        starts = self._pinned.lay_out(sizes := self._host_regions(plan))
        whole = _block(self._pinned).array
        raw = {name: whole[start : start + sizes[name]] for name, start in starts.items()}
        height, width = plan.photo
        self.host = {
            "photo": raw["photo"].reshape(height, width, 3),
            "tables": raw["tables"],
            "head": raw["head"].view(np.float32),
            "labels": raw["labels"].view(np.uint16).reshape(height, width),
            "confidence": raw["confidence"].view(np.float16).reshape(height, width),
        }

    def place_text(self, embeddings: Floats) -> Floats:
        """Reserve room for embeddings on the device; return a pinned copy of them. Shape: (N, D)."""
        self._text.lay_out({"text": embeddings.nbytes})
        self._pinned_text.lay_out({"text": embeddings.nbytes})
        self.text_address = _block(self._text).address
        raw = _block(self._pinned_text).array[: embeddings.nbytes]
        pinned: Floats = raw.view(np.float32).reshape(embeddings.shape)
        pinned[:] = embeddings
        return pinned

    def pin_features(self, plan: PhotoPlan) -> Floats:
        """Reserve pinned memory for the features of a photo and return it. Shape: (B, D, h, w)."""
        size = plan.windows * self._features
        self._pinned_features.lay_out({"features": size})
        pinned: Floats = _block(self._pinned_features).array[:size].view(np.float32)
        return pinned.reshape(plan.windows, -1, *plan.grid)

    def free(self) -> None:
        """Release all memory."""
        self.host = {}
        for arena in self._arenas:
            arena.free()

    @property
    def _arenas(self) -> "tuple[Arena[Block] | Arena[Pinned], ...]":
        return (self._arena, self._pinned, self._text, self._pinned_text, self._pinned_features)

    def _regions(self, plan: PhotoPlan) -> dict[str, int]:
        area = plan.photo[0] * plan.photo[1]
        return {
            "photo": 3 * area,
            "tables": plan.pack_tables().nbytes,
            "head": HEAD,
            **{f"pixels.{context}": self._pixels for context in range(self._contexts)},
            "features": plan.windows * self._features,
            "scores": max(SCORES_BYTES, 4 * plan.plane),
            "best": 4 * area,
            "labels": 2 * area,
            "confidence": 2 * area,
        }

    def _host_regions(self, plan: PhotoPlan) -> dict[str, int]:
        regions = self._regions(plan)
        return {name: regions[name] for name in ("photo", "tables", "head", "labels", "confidence")}


def _total(regions: Mapping[str, int]) -> int:
    return sum(-(-size // ALIGNMENT) * ALIGNMENT for size in regions.values())


def _block(arena: Arena[R]) -> R:
    if arena.block is None:
        raise RuntimeError("the pipeline is closed")
    return arena.block
