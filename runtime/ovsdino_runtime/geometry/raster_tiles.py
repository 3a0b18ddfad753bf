"""Cut a raster larger than memory into tiles, without seams between them.

A tile is segmented with a margin around its core, and only the core's labels are kept. Tiles begin at
multiples of the windows' stride, and the margin covers every window that reaches into the core. The core
therefore gets the same labels as if the whole raster were segmented at once.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from ovsdino_runtime.geometry.windows import Window

MAX_SIDE = 2048  # [px] largest side of a tile
BLOCK_UNIT = 16  # [px] the sides of TIFF blocks are multiples of this


@dataclass(frozen=True)
class RasterTile:
    """A tile of a raster [px]."""

    read: Window  # the pixels to read: the core with its margin, clipped to the raster
    core: Window  # the pixels whose labels are kept; the cores of all tiles cover the raster exactly once


@dataclass(frozen=True, kw_only=True)
class TilePlan:
    """The size of tiles.

    Args:
        step: side of a core, which is also the distance between tiles [px].
        before, after: margins before and after a core, along both axes [px].
    """

    step: int
    before: int
    after: int

    def __post_init__(self) -> None:
        """Reject a tile without a core, and negative margins.

        Raises:
            ValueError: the message contains the numbers.
        """
        if self.step < 1 or min(self.before, self.after) < 0:
            raise ValueError(f"no tile has a core of {self.step} px and margins {self.before}, {self.after}")

    @property
    def side(self) -> int:
        """Side of a tile with its margins [px]."""
        return self.before + self.step + self.after

    @property
    def block(self) -> int:
        """Side of the blocks of the label raster [px]; a core is a whole number of blocks if possible."""
        sides = (side for side in range(1024, 127, -BLOCK_UNIT) if self.step % side == 0)
        return next(sides, 256)

    def count(self, height: int, width: int) -> int:
        """Return the number of tiles of a raster of this size [px]."""
        return -(-height // self.step) * -(-width // self.step)

    def tiles(self, height: int, width: int) -> Iterator[RasterTile]:
        """Cover a raster with tiles, row by row.

        Args:
            height, width: size of the raster [px].
        """
        for top in range(0, height, self.step):
            rows = self._along(top, height)
            for left in range(0, width, self.step):
                columns = self._along(left, width)
                yield RasterTile(
                    Window(top=rows[0], left=columns[0], height=rows[1], width=columns[1]),
                    Window(
                        top=top,
                        left=left,
                        height=min(self.step, height - top),
                        width=min(self.step, width - left),
                    ),
                )

    def _along(self, core: int, length: int) -> tuple[int, int]:
        """Return a tile's start and length along an axis [px]."""
        start = max(0, core - self.before)
        return start, min(self.side, length - start)


def plan_for_windows(size: int, stride: int, *, max_side: int = MAX_SIDE) -> TilePlan:
    """Plan tiles for a model that slides windows over a photo.

    Tiles begin at multiples of the stride and end where a window ends; the margins contain every window that
    reaches into the core.

    Args:
        size: side of a window [px].
        stride: step between windows [px].
        max_side: largest side of a tile [px]; exceeded only if a core would not fit.
    """
    after = size - stride
    before = -(-after // stride) * stride
    strides = max(1, (max_side - before - after) // stride)
    return TilePlan(step=strides * stride, before=before, after=after)


def plan_for_view(view: int) -> TilePlan:
    """Plan tiles for a model whose input is a square of ``view`` px: a quarter is margin on each side."""
    return TilePlan(step=view - view // 4 * 2, before=view // 4, after=view // 4)
