"""An arena: one allocation divided into named regions, replaced only when larger regions are needed."""

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

ALIGNMENT = 256  # [bytes] as CUDA's own allocations; the kernels need 16


class Reserved(Protocol):
    """Memory that an arena divides."""

    def free(self) -> None:
        """Release it."""


R = TypeVar("R", bound=Reserved)


class Arena(Generic[R]):
    """Divide one block of memory into named regions that do not overlap.

    Args:
        reserve: allocates a block of a given size [bytes].
        size: initial size of the block [bytes]; it grows when the regions need more.
    """

    def __init__(self, reserve: Callable[[int], R], size: int) -> None:
        self._reserve = reserve
        self.size = max(size, ALIGNMENT)
        self.block: R | None = reserve(self.size)
        self.allocations = 1  # number of blocks reserved so far

    def lay_out(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Place regions of the given sizes [bytes] one after another; former contents are lost.

        Returns:
            Offset of each region in the block [bytes].
        """
        starts, end = {}, 0
        for name, size in sizes.items():
            starts[name] = end
            end += -(-size // ALIGNMENT) * ALIGNMENT
        if end > self.size or self.block is None:
            self.free()  # before the new block: the old and the new one need not fit together
            self.block = self._reserve(end)
            self.size = end
            self.allocations += 1
        return starts

    def free(self) -> None:
        """Release the block."""
        if self.block is not None:
            self.block.free()
        self.block = None
