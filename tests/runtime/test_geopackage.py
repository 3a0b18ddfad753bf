"""Regions in a GeoPackage, read back by pyogrio: the same places, areas and confidences."""

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime.cli import run

rasterio = pytest.importorskip("rasterio")
pyogrio = pytest.importorskip("pyogrio")
from pyogrio import raw  # noqa: E402 - after the check that it is there

from tests.runtime.test_rasters import COLOURS, patchwork, write_raster  # noqa: E402

ALBERS = "+proj=aea +lat_1=29.5 +lat_2=45.5 +lat_0=23 +lon_0=-97 +datum=WGS84 +units=m"


@pytest.fixture
def invoke(shared_bundle, tmp_path):
    def invoke(*arguments):
        command = ["--classes", COLOURS, "--model", shared_bundle.path, "--out", tmp_path / "out"]
        return CliRunner().invoke(run, [str(text) for text in (*arguments, *command, "--threads", "1")])

    return invoke


def read_back(file):
    """Return the layer's metadata and its columns by name."""
    meta, _, geometry, columns = raw.read(file, layer="regions")
    return meta, dict(zip(meta["fields"], columns, strict=True)) | {"wkb": geometry}


def check(file, labels, *, per_pixel=0.25):
    """Compare with labels: names, pixels, areas, and the pixels that the polygons cover."""
    from rasterio.features import rasterize

    meta, table = read_back(file)
    assert meta["geometry_type"] == "Polygon"
    np.testing.assert_allclose(table["area_m2"], table["pixels"] * per_pixel)
    for name in set(table["name"]):
        label = COLOURS.split(", ").index(name)
        assert table["pixels"][table["name"] == name].sum() == (labels == label).sum()
    shapes = [
        (_polygon(wkb), int(label) + 1) for wkb, label in zip(table["wkb"], table["label"], strict=True)
    ]
    drawn = rasterize(shapes, labels.shape, transform=rasterio.Affine(0.5, 0, 5e5, 0, -0.5, 4.6e6))
    np.testing.assert_array_equal(drawn, labels.astype(int) + 1)
    return meta, table


def _polygon(wkb):
    """Decode a polygon as the standard has it: byte order, type, rings, each its number of corners."""
    assert wkb[:5] == b"\x01\x03\x00\x00\x00"
    count, place, rings = int.from_bytes(wkb[5:9], "little"), 9, []
    for _ in range(count):
        corners = int.from_bytes(wkb[place : place + 4], "little")
        ring = np.frombuffer(wkb, "<f8", 2 * corners, place + 4).reshape(-1, 2)
        assert (ring[0] == ring[-1]).all()
        rings.append(ring.tolist())
        place += 4 + 16 * corners
    return {"type": "Polygon", "coordinates": rings}


def test_a_photo_s_regions(invoke, tmp_path):
    scene = write_raster(tmp_path / "scene.tif", patchwork(90, 120))
    done = invoke(scene, "--save", "labels,gpkg")
    assert done.exit_code == 0, done.output
    labels = np.asarray(Image.open(tmp_path / "out/scene_labels.png"))
    meta, table = check(tmp_path / "out/scene.gpkg", labels)
    assert meta["crs"] == "EPSG:32633"
    assert ((table["score"] > 0) & (table["score"] <= 1)).all()


def test_a_large_raster_s_regions(invoke, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)
    scene = write_raster(tmp_path / "scene.tif", patchwork(260, 300))
    done = invoke(scene, "--save", "gpkg")
    assert done.exit_code == 0, done.output
    with rasterio.open(tmp_path / "out/scene_labels.tif") as raster:
        labels = raster.read(1)
    meta, _ = check(tmp_path / "out/scene.gpkg", labels)
    assert meta["crs"] == "EPSG:32633"


@pytest.mark.parametrize("limit", [10_000, None], ids=["by windows", "as a photo"])
def test_a_system_without_epsg_code_goes_into_a_geopackage_and_a_prj(invoke, tmp_path, monkeypatch, limit):
    if limit:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    scene = write_raster(tmp_path / "scene.tif", patchwork(260, 300), crs=ALBERS)
    done = invoke(scene, "--save", "gpkg,geojson")
    assert done.exit_code == 0, done.output
    assert "no GeoJSON: its coordinate system has no EPSG code; choose gpkg" in done.output
    assert "its WKT is in scene.prj" in done.output
    assert not (tmp_path / "out/scene.geojson").exists()
    told = rasterio.CRS.from_wkt((tmp_path / "out/scene.prj").read_text())
    assert told == rasterio.CRS.from_proj4(ALBERS)
    meta, _ = read_back(tmp_path / "out/scene.gpkg")
    assert rasterio.CRS.from_user_input(meta["crs"]) == told


def test_degrees_have_no_square_metres(invoke, tmp_path):
    place = rasterio.Affine(1e-5, 0, 14, 0, -1e-5, 42)
    scene = write_raster(tmp_path / "scene.tif", patchwork(60, 70), crs="EPSG:4326", transform=place)
    assert invoke(scene, "--save", "gpkg").exit_code == 0
    _, table = read_back(tmp_path / "out/scene.gpkg")
    assert np.isnan(table["area_m2"]).all()


def test_a_photo_without_a_place_has_none(invoke, flag_file, tmp_path):
    done = invoke(flag_file, "--save", "gpkg,json")
    assert done.exit_code == 0
    assert "no GeoPackage: it does not say where it lies" in done.output
    assert not (tmp_path / "out/flag.gpkg").exists()
