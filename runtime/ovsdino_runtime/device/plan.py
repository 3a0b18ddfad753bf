"""What a device does for photos of one size: the windows, and the tables that the kernels read."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.bundle.bundle import Manifest
from ovsdino_runtime.cuda.arena import ALIGNMENT
from ovsdino_runtime.device.resampling_tables import Taps, cut_side, merge_bands, node_offsets, resize_taps
from ovsdino_runtime.geometry.merge import merge_geometry
from ovsdino_runtime.geometry.preprocess import fit_size
from ovsdino_runtime.geometry.types import Array, Floats
from ovsdino_runtime.geometry.windows import plan_windows

SCORES_BYTES = 8 << 20  # scores of the classes that are taken at once: memory does not grow with their number


@dataclass(frozen=True, eq=False)
class PhotoPlan:
    """The geometry of a photo's way."""

    photo: tuple[int, int]  # height and width [px]
    windows: int  # in row-major order
    across: int  # of them in a row
    grid: tuple[int, int]  # h and w of a window's features
    antialias: bool
    stretched: bool  # windows are shorter than the engine's input
    tables: dict[str, Array]  # by stage and argument, such as "cut.row_starts"

    @property
    def plane(self) -> int:
        """Count the nodes of all windows."""
        return self.windows * self.grid[0] * self.grid[1]

    @property
    def classes_at_once(self) -> int:
        """Count the classes whose scores are kept at once."""
        return max(1, SCORES_BYTES // (4 * self.plane))

    @property
    def table_starts(self) -> dict[str, int]:
        """Place the tables in one piece [bytes]."""
        starts, end = {}, 0
        for name, table in self.tables.items():
            starts[name] = end
            end += _aligned(table.nbytes)
        return starts

    def pack_tables(self) -> npt.NDArray[np.uint8]:
        """Put the tables into one piece, so that they are copied at once."""
        packed = np.zeros(sum(_aligned(table.nbytes) for table in self.tables.values()), np.uint8)
        for start, table in zip(self.table_starts.values(), self.tables.values(), strict=True):
            packed[start : start + table.nbytes] = np.frombuffer(table.tobytes(), np.uint8)
        return packed


def plan_photo(
    manifest: Manifest,
    photo: tuple[int, int],
    *,
    antialias: bool,
    tile: tuple[int, int],
) -> PhotoPlan:
    """Work out the windows and tables for a size of photo.

    Args:
        manifest: of the model.
        photo: height and width [px].
        antialias: see `preprocess.resize_photo`.
        tile: rows and columns of a program of the merging kernel [px].
    """
    limits, policy = manifest.preprocessing, manifest.windows
    resized = fit_size(*photo, short_side=limits.short_side, long_side=limits.long_side)
    windows = plan_windows(*resized, size=policy.size, stride=policy.stride)
    grid = _grid(manifest)
    tables: dict[str, Array] = {"cut.colours": _colours(manifest)}
    geometry = merge_geometry(windows, grid, resized=resized, photo=photo, taper=policy.taper)
    axes = geometry.rows, geometry.columns
    for axis, side in enumerate(("row", "column")):
        taps = resize_taps(photo[axis], resized[axis], antialias=antialias)
        starts = sorted({(window.top, window.left)[axis] for window in windows})
        length = (windows[0].height, windows[0].width)[axis]
        taps = Taps(*(np.concatenate([table, table[-1:]]) for table in (taps.starts, taps.weights)))
        cut = cut_side(starts, length, size=policy.size)
        bands = merge_bands(axes[axis], node_offsets(windows, grid)[axis], pixels=tile[axis])
        tables |= {f"cut.{side}_lows": cut.lows, f"cut.{side}_shares": cut.shares}
        tables |= {f"cut.{side}_starts": taps.starts, f"cut.{side}_weights": taps.weights}
        tables |= {f"merge.{side}_nodes": bands.nodes, f"merge.{side}_weights": bands.weights}
    across = len({window.left for window in windows})
    stretched = min(windows[0].height, windows[0].width) < policy.size
    return PhotoPlan(photo, len(windows), across, grid, antialias, stretched, tables)


def _grid(manifest: Manifest) -> tuple[int, int]:
    height, width = manifest.graphs["vision"].outputs[0].shape[2:]
    return int(height), int(width)


def _colours(manifest: Manifest) -> Floats:
    """Write ``(value / 255 - mean) / std`` as three slopes and three shifts."""
    mean, std = (np.array(values) for values in (manifest.preprocessing.mean, manifest.preprocessing.std))
    return np.concatenate([1 / (255 * std), -mean / std]).astype(np.float32)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class Batch:
    """Windows that are encoded in one run of the engine."""

    context: int  # of the engine
    first: int  # of the windows
    count: int


def plan_batches(windows: int, *, max_count: int, contexts: int) -> list[Batch]:
    """Split windows evenly over the fewest runs: their sizes differ by one at most.

    Runs of the larger size go to the first context and those of the smaller one to the second, so that no
    context changes its shape within a photo; runs of one size go to all contexts in turns.

    Args:
        windows: at least 1.
        max_count: windows in a run, at most.
        contexts: of the engine.
    """
    runs = -(-windows // max_count)
    small, larger = divmod(windows, runs)  # so many runs have one window more
    batches, first = [], 0
    for turn in range(runs):
        count = small + (turn < larger)
        context = int(turn >= larger) % contexts if larger else turn % contexts
        batches.append(Batch(context, first, count))
        first += count
    return batches
