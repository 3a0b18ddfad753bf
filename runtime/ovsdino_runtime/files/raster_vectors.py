"""Write the regions of label rasters as ground polygons: GeoJSON and GeoPackage (extra ``geo``)."""

import json
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.errors import OutputError, PhotoError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.files.geojson import NO_EPSG, NO_SYSTEM, Unplaced, crs_member, read_georeference
from ovsdino_runtime.files.geopackage import GroundPolygon, polygon_area, save_geopackage

RasterFile = Any  # rasterio's DatasetReader; the library has no types
System = Any  # rasterio's CRS


def save_raster_vectors(
    labels: Path, path: Path, classes: Sequence[str], *, kind: Literal["geojson", "gpkg"]
) -> str | None:
    """Write each connected region of a label raster as a polygon.

    Memory depends on the number of polygons and their corners, not on the raster's pixels.

    Args:
        labels: the label raster.
        path: the file to write.
        classes: names of the labels.
        kind: format of the file.

    Returns:
        The reason why nothing was written; None if the file was written.

    Raises:
        OutputError: the file cannot be written.
    """
    import rasterio

    what = "GeoJSON" if kind == "geojson" else "GeoPackage"
    with rasterio.open(labels) as raster:
        if raster.crs is None:
            return f"no {what}: {NO_SYSTEM}"
        polygons = _polygons(raster, classes)
        if kind == "gpkg":
            save_geopackage(polygons, path, wkt=raster.crs.to_wkt())
            return None
        epsg = raster.crs.to_epsg(confidence_threshold=100)
        if epsg is None:
            text, prj = raster.crs.to_wkt(), path.with_suffix(".prj")
            write_whole(prj, lambda file: file.write(text.encode()))
            return f"no {what}: {NO_EPSG}; its WKT is in {prj.name}"
        write_whole(path, lambda file: file.writelines(_geojson_lines(polygons, epsg)))
    return None


def save_photo_geopackage(segmentation: Segmentation, photo: str, path: Path) -> str | None:
    """Write each connected region of a georeferenced photo as a polygon with its mean confidence.

    Args:
        segmentation: the result.
        photo: the photo's file.
        path: the GeoPackage.

    Returns:
        The reason why nothing was written; None if the file was written.

    Raises:
        OutputError: the file cannot be written, or the extra ``geo`` is not installed.
    """
    place, wkt, metres = read_place(photo)
    if place is None:
        return f"no GeoPackage: {wkt}"
    a, b, c, d, e, f = place

    def polygons() -> Iterator[GroundPolygon]:
        for item in segmentation.objects(min_area=0):
            rings = [[(a * x + b * y + c, d * x + e * y + f) for x, y in ring] for ring in item.polygon()]
            area = None if metres is None else item.area * abs(a * e - b * d) * metres
            yield GroundPolygon(
                rings=rings,
                name=item.name,
                label=item.label,
                pixels=item.area,
                area_m2=area,
                score=item.score,
            )

    save_geopackage(polygons(), path, wkt=wkt)
    return None


def read_place(photo: str) -> tuple[tuple[float, ...] | None, str, float | None]:
    """Read a photo's geographic reference.

    Returns:
        The transform from pixels to the ground, the coordinate system as well-known text, and the square
        metres of a squared unit; or None, the reason why there is no reference, and None.

    Raises:
        OutputError: rasterio is not installed.
    """
    found = read_georeference(photo)
    if isinstance(found, Unplaced) and not found.has_system:
        return None, found.reason, None
    try:
        import rasterio
    except ImportError as error:
        raise OutputError(f"a GeoPackage needs rasterio: {install_command('geo')}") from error
    try:
        with rasterio.open(photo) as raster:
            return tuple(raster.transform)[:6], raster.crs.to_wkt(), square_metres(raster.crs)
    except rasterio.errors.RasterioError as error:
        raise PhotoError(f"{photo}: broken georeference: {error}") from error


def write_prj(photo: str, path: Path) -> str:
    """Write a photo's coordinate system beside its results, if rasterio can read it.

    Returns:
        A note for the user; empty if nothing was written.
    """
    if find_spec("rasterio") is None:
        return ""
    _, wkt, _ = read_place(photo)
    write_whole(path, lambda file: file.write(wkt.encode()))
    return f"; its WKT is in {path.name}"


def _polygons(raster: RasterFile, classes: Sequence[str]) -> Iterator[GroundPolygon]:
    import rasterio
    from rasterio.features import shapes

    transform = raster.transform
    square = abs(transform.a * transform.e - transform.b * transform.d)  # of a pixel
    metres = square_metres(raster.crs)
    for shape, value in shapes(rasterio.band(raster, 1), transform=transform):
        label = int(value)
        if label >= len(classes):
            continue
        rings = [[(float(x), float(y)) for x, y in ring] for ring in shape["coordinates"]]
        area = polygon_area(rings)
        yield GroundPolygon(
            rings=rings,
            name=classes[label],
            label=label,
            pixels=round(area / square),
            area_m2=None if metres is None else area * metres,
            score=None,
        )


def square_metres(crs: System) -> float | None:
    """Return the square metres of a squared coordinate unit; None for degrees."""
    if not crs.is_projected:
        return None
    return float(crs.linear_units_factor[1]) ** 2


def _geojson_lines(polygons: Iterator[GroundPolygon], epsg: int) -> Iterator[bytes]:
    head: dict[str, Any] = {"type": "FeatureCollection", **crs_member(epsg)}
    yield (json.dumps(head)[:-1] + ', "features": [').encode()
    for number, polygon in enumerate(polygons):
        feature = {
            "type": "Feature",
            "properties": {
                "name": polygon.name,
                "label": polygon.label,
                "pixels": polygon.pixels,
                "score": polygon.score,
            },
            "geometry": {"type": "Polygon", "coordinates": polygon.rings},
        }
        yield (("," if number else "") + "\n" + json.dumps(feature, ensure_ascii=False)).encode()
    yield b"\n]}\n"
