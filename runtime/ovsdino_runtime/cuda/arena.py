"""One piece of memory for all that a photo needs, laid out anew only when something larger comes."""

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

ALIGNMENT = 256  # [bytes] what CUDA's own allocations have; kernels count on 16


class Reserved(Protocol):
    """Memory that an arena divides."""

    def free(self) -> None:
        """Give it back."""


R = TypeVar("R", bound=Reserved)


class Arena(Generic[R]):
    """Memory in named regions that do not overlap.

    Args:
        reserve: takes memory [bytes].
        size: how much is taken at once [bytes]; more only when regions need more.
    """

    def __init__(self, reserve: Callable[[int], R], size: int) -> None:
        self._reserve = reserve
        self.size = max(size, ALIGNMENT)
        self.block: R | None = reserve(self.size)
        self.allocations = 1  # how often memory was taken so far

    def lay_out(self, sizes: Mapping[str, int]) -> dict[str, int]:
        """Place regions [bytes] one behind the other; what lay there before is lost.

        Returns:
            Where each begins in the block [bytes].
        """
        starts, end = {}, 0
        for name, size in sizes.items():
            starts[name] = end
            end += -(-size // ALIGNMENT) * ALIGNMENT
        if end > self.size or self.block is None:
            self.free()  # first: both need not fit at once
            self.block = self._reserve(end)
            self.size = end
            self.allocations += 1
        return starts

    def free(self) -> None:
        """Give the memory back."""
        if self.block is not None:
            self.block.free()
        self.block = None
