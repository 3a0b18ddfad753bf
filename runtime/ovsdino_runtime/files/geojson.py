"""Convert regions of a georeferenced photo to GeoJSON, in the coordinate system of the photo."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.orientation import ORIENTATION
from ovsdino_runtime.base.photo_address import is_address
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.base.tiff_layout import read_tiff_tags
from ovsdino_runtime.geometry.outlines import Ring, outline

PIXEL_SCALE, TIEPOINT, TRANSFORMATION, KEYS = 33550, 33922, 34264, 34735  # tags of GeoTIFF
MODEL_TYPE, RASTER_TYPE, GEOGRAPHIC, PROJECTED = 1024, 1025, 2048, 3072  # keys of GeoTIFF
SYSTEM_OF = {1: PROJECTED, 2: GEOGRAPHIC}  # model type -> the key that names the coordinates' system
PIXEL_IS_POINT = 2
EPSG_CODES = range(1024, 32767)  # 32767 is a system of the user's own
WGS84 = 4326
NO_EPSG = (
    "its coordinate system has no EPSG code; choose gpkg, or convert it first: gdalwarp -t_srs EPSG:4326"
)
NO_SYSTEM = "it names no coordinate system; say which: gdal_edit.py -a_srs EPSG:..."


@dataclass(frozen=True)
class Georeference:
    """Map pixels to ground: ``(x, y) -> (a x + b y + c, d x + e y + f)``; pixel corners are integers."""

    affine: tuple[float, float, float, float, float, float]
    epsg: int  # the coordinates' system

    def place(self, ring: Ring) -> list[list[float]]:
        """Return the ground coordinates of a ring."""
        a, b, c, d, e, f = self.affine
        corners = ring if a * e < b * d else ring[::-1]  # counter-clockwise on the ground as well
        return [[a * x + b * y + c, d * x + e * y + f] for x, y in corners]


@dataclass(frozen=True)
class Unplaced:
    """A photo without usable georeference, and the reason."""

    reason: str
    has_system: bool = False  # it lies somewhere, in a coordinate system that GeoJSON cannot name


def read_georeference(path: str | Path) -> Georeference | Unplaced:
    """Read the georeference of a GeoTIFF, or the reason why there is none.

    A coordinate system without EPSG code is rejected, because readers of GeoJSON would assume WGS 84.

    Source: OGC GeoTIFF 1.1, sections 7.1 and 7.2.

    Raises:
        PhotoError: its tags are damaged.
    """
    if isinstance(path, str) and is_address(path):
        return Unplaced("it comes from an address; download it first")
    try:
        return _place(read_tiff_tags(Path(path)) or {})
    except Exception as error:
        raise PhotoError(f"{path}: broken georeference: {error}") from error


def _place(tags: Mapping[int, Any]) -> Georeference | Unplaced:
    if not ({PIXEL_SCALE, TRANSFORMATION} & tags.keys()):
        if TIEPOINT in tags:
            return Unplaced("it has ground control points only; place it first: gdalwarp")
        return Unplaced("it does not say where it lies")
    if tags.get(ORIENTATION, 1) != 1:
        return Unplaced("it is stored turned; write it upright with GDAL first")
    words = tags.get(KEYS, ())
    keys = {words[i]: words[i + 3] for i in range(4, len(words), 4) if words[i + 1] == 0}
    half = 0.5 if keys.get(RASTER_TYPE) == PIXEL_IS_POINT else 0.0
    a, b, c, d, e, f = _affine(tags)
    system = SYSTEM_OF.get(int(keys.get(MODEL_TYPE, 0)))
    epsg = int((keys.get(system) if system else keys.get(PROJECTED) or keys.get(GEOGRAPHIC)) or 0)
    if epsg not in EPSG_CODES:
        if epsg:
            return Unplaced(NO_EPSG, has_system=True)
        return Unplaced(NO_SYSTEM)
    return Georeference((a, b, c - half * (a + b), d, e, f - half * (d + e)), epsg)


def to_geojson(segmentation: Segmentation, place: Georeference) -> dict[str, object]:
    """Convert each region to a feature with its outline, name, pixels, coverage and score.

    The coordinates are those of the photo. If they are not WGS 84, the member ``crs`` names the system, as
    GDAL and QGIS write and read it.

    Source: RFC 7946; for ``crs`` the GeoJSON specification of 2008.
    """
    features = [
        {
            "type": "Feature",
            "properties": {
                "name": region.name,
                "label": region.label,
                "pixels": region.pixels,
                "coverage": round(region.coverage, 6),
                "score": None if region.score is None else round(region.score, 4),
            },
            "geometry": {
                "type": "MultiPolygon",
                "coordinates": [
                    [place.place(ring) for ring in polygon]
                    for polygon in outline(segmentation.labels == region.label)
                ],
            },
        }
        for region in segmentation.regions()
    ]
    return {"type": "FeatureCollection", **crs_member(place.epsg), "features": features}


def crs_member(epsg: int) -> dict[str, object]:
    """Return the member that names a coordinate system; none for WGS 84, which readers expect."""
    named = {"name": f"urn:ogc:def:crs:EPSG::{epsg}"}
    return {} if epsg == WGS84 else {"crs": {"type": "name", "properties": named}}


def _affine(tags: Mapping[int, Any]) -> tuple[float, float, float, float, float, float]:
    if matrix := tags.get(TRANSFORMATION):
        a, b, _, c, d, e, _, f = matrix[:8]
        return a, b, c, d, e, f
    width, height = tags[PIXEL_SCALE][:2]
    column, row, _, x, y = tags[TIEPOINT][:5]
    return width, 0.0, x - width * column, 0.0, -height, y + height * row
