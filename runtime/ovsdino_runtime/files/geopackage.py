"""Write regions as polygons in a GeoPackage, for QGIS and other GIS (extra ``geo``: pyogrio)."""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovsdino_runtime.base.atomic import partial_file
from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.install import install_command

LAYER = "regions"
AT_ONCE = 5000  # polygons per write
GroundRing = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class GroundPolygon:
    """A connected region in ground coordinates."""

    rings: Sequence[
        GroundRing
    ]  # the outer ring, then its holes; each ring repeats its first corner at the end
    name: str
    label: int
    pixels: int
    area_m2: float | None  # None if the coordinate system's unit is not a length
    score: float | None  # mean confidence, 0..1

    def wkb(self) -> bytes:
        """Encode the polygon as well-known binary.

        Source: OGC Simple Feature Access 1.2.1, section 8.2.
        """
        parts = [struct.pack("<BII", 1, 3, len(self.rings))]
        for ring in self.rings:
            corners = np.asarray(ring, "<f8")
            parts += [struct.pack("<I", len(corners)), corners.tobytes()]
        return b"".join(parts)


def ring_area(ring: GroundRing) -> float:
    """Compute the area of a ring of any direction, in squared units of its coordinates."""
    corners = np.asarray(ring, np.float64)
    corners = corners - corners[0]  # map coordinates are large: subtract an offset to keep precision
    x, y = corners[:, 0], corners[:, 1]
    return abs(float(np.sum(x[:-1] * y[1:] - x[1:] * y[:-1]))) / 2


def polygon_area(rings: Sequence[GroundRing]) -> float:
    """Compute the area of a polygon, excluding its holes."""
    return ring_area(rings[0]) - sum(ring_area(ring) for ring in rings[1:])


def save_geopackage(polygons: Iterator[GroundPolygon], path: Path, *, wkt: str) -> None:
    """Write polygons as a layer; the file appears when it is complete.

    Args:
        polygons: polygons in any order.
        path: the file to write.
        wkt: coordinate system of the polygons as well-known text.

    Raises:
        OutputError: pyogrio is not installed, or the file cannot be written.
    """
    try:
        import pyogrio.raw
    except ImportError as error:
        raise OutputError(f"a GeoPackage needs pyogrio: {install_command('geo')}") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial_file(path) as partial:
            partial.unlink()  # GDAL creates the file itself
            first = True
            for batch in _batches(polygons):
                pyogrio.raw.write(
                    partial,
                    geometry=np.array([polygon.wkb() for polygon in batch], object),
                    field_data=_columns(batch),
                    fields=["name", "label", "pixels", "area_m2", "score"],
                    geometry_type="Polygon",
                    crs=wkt,
                    driver="GPKG",
                    layer=LAYER,
                    append=not first,
                )
                first = False
    except (OSError, pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError) as error:
        raise OutputError(f"{path}: cannot be written: {' '.join(str(error).split()):.200}") from error


def _columns(batch: Sequence[GroundPolygon]) -> list[np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    def numbers(values: Sequence[float | None]) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
        return np.array([np.nan if value is None else value for value in values], np.float64)

    return [
        np.array([polygon.name for polygon in batch], object),
        np.array([polygon.label for polygon in batch], np.int32),
        np.array([polygon.pixels for polygon in batch], np.int64),
        numbers([polygon.area_m2 for polygon in batch]),
        numbers([polygon.score for polygon in batch]),
    ]


def _batches(polygons: Iterator[GroundPolygon]) -> Iterator[list[GroundPolygon]]:
    """Split polygons into lists; no polygons give one empty list."""
    batch: list[GroundPolygon] = []
    empty = True
    for polygon in polygons:
        batch.append(polygon)
        if len(batch) == AT_ONCE:
            yield batch
            batch, empty = [], False
    if batch or empty:
        yield batch
