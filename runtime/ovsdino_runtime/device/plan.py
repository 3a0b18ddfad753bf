"""Plan of a photo size on a device: its windows, and the tables that the kernels read."""

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
    """Windows, node grid and kernel tables of one photo size."""

    photo: tuple[int, int]  # height and width [px]
    windows: int  # in row-major order
    across: int  # of them in a row
    grid: tuple[int, int]  # h and w of a window's features
    antialias: bool
    stretched: bool  # windows are shorter than the engine's input
    tables: dict[str, Array]  # by stage and argument, such as "cut.row_starts"

    @property
    def plane(self) -> int:
        """Number of nodes of all windows: the scores of one class."""
        return self.windows * self.grid[0] * self.grid[1]

    @property
    def classes_at_once(self) -> int:
        """Number of classes whose scores are kept at the same time."""
        return max(1, SCORES_BYTES // (4 * self.plane))

    @property
    def table_starts(self) -> dict[str, int]:
        """Offset of each table in the packed tables [bytes]."""
        starts, end = {}, 0
        for name, table in self.tables.items():
            starts[name] = end
            end += _aligned(table.nbytes)
        return starts

    def pack_tables(self) -> npt.NDArray[np.uint8]:
        """Pack all tables into one array, so that one copy brings them to the device."""
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
    """Compute the windows and kernel tables for a photo size.

    Args:
        manifest: manifest of the model.
        photo: height and width of the photo [px].
        antialias: see `preprocess.resize_photo`.
        tile: rows and columns of the output tile of one program of the merge kernel [px].
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
    return PhotoPlan(
        photo=photo,
        windows=len(windows),
        across=across,
        grid=grid,
        antialias=antialias,
        stretched=stretched,
        tables=tables,
    )


def _grid(manifest: Manifest) -> tuple[int, int]:
    height, width = manifest.graphs["vision"].outputs[0].shape[2:]
    return int(height), int(width)


def _colours(manifest: Manifest) -> Floats:
    """Write ``(value / 255 - mean) / std`` as three slopes followed by three shifts."""
    mean, std = (np.array(values) for values in (manifest.preprocessing.mean, manifest.preprocessing.std))
    return np.concatenate([1 / (255 * std), -mean / std]).astype(np.float32)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


@dataclass(frozen=True)
class WindowBatch:
    """The windows of one engine run."""

    context: int  # of the engine
    first: int  # of the windows
    count: int


def plan_batches(windows: int, *, max_count: int, contexts: int) -> list[WindowBatch]:
    """Split windows over as few runs as possible; run sizes differ by at most one.

    If there are two sizes, the larger runs use the first context and the smaller ones the second, so that no
    context changes its shape within a photo. Runs of one size use all contexts in turns.

    Args:
        windows: number of windows, at least 1.
        max_count: largest number of windows in a run.
        contexts: number of engine contexts.
    """
    runs = -(-windows // max_count)
    small, larger = divmod(windows, runs)  # so many runs have one window more
    batches, first = [], 0
    for turn in range(runs):
        count = small + (turn < larger)
        context = int(turn >= larger) % contexts if larger else turn % contexts
        batches.append(WindowBatch(context, first, count))
        first += count
    return batches
