import json
from collections import deque
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, TiffImagePlugin

from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.files.geojson import Georeference, Unplaced, outline, read_georeference, to_geojson

MASKS = arrays(bool, array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9), elements=st.booleans())


def inside(rings, x, y):
    """Count the upright edges right of a point: the obvious way."""
    crossings = 0
    for ring in rings:
        for (x0, y0), (x1, y1) in pairwise(ring):
            crossings += x0 == x1 and x0 > x and min(y0, y1) < y < max(y0, y1)
    return crossings % 2 == 1


def components(mask):
    """Pixels that touch along a side, flooded one by one."""
    left, found = {tuple(p) for p in np.argwhere(mask).tolist()}, []
    while left:
        some, queue = set(), deque([left.pop()])
        while queue:
            y, x = queue.popleft()
            some.add((y, x))
            for pixel in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                if pixel in left:
                    left.remove(pixel)
                    queue.append(pixel)
        found.append(some)
    return found


def area(ring):
    """Positive where the ring runs counter-clockwise as seen, y down."""
    return -sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring)) / 2


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_polygons_hold_exactly_the_masks_connected_pixels(mask):
    polygons = outline(mask)
    pixels = [
        {(y, x) for y in range(mask.shape[0]) for x in range(mask.shape[1]) if inside(p, x + 0.5, y + 0.5)}
        for p in polygons
    ]
    assert sorted(map(sorted, pixels)) == sorted(map(sorted, components(mask)))
    for rings, own in zip(polygons, pixels, strict=True):
        assert area(rings[0]) > 0
        assert all(area(hole) < 0 for hole in rings[1:])
        assert sum(map(area, rings)) == len(own)


@settings(max_examples=150, deadline=None)
@given(MASKS)
def test_rings_are_closed_simple_and_without_needless_corners(mask):
    for ring in (ring for rings in outline(mask) for ring in rings):
        assert ring[0] == ring[-1]
        assert len(set(ring)) == len(ring) - 1
        upright = [x0 == x1 for (x0, _), (x1, _) in pairwise(ring)]
        assert all(a != b for a, b in zip(upright, [*upright[1:], upright[0]], strict=True))


def geotiff(path, tags):
    info = TiffImagePlugin.ImageFileDirectory_v2()
    for tag, (kind, values) in tags.items():
        info.tagtype[tag] = kind
        info[tag] = values
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(path, tiffinfo=info)
    return path


DOUBLE, SHORT = 12, 3
UTM = (SHORT, (1, 1, 0, 2, 1024, 0, 1, 1, 3072, 0, 1, 32633))


def test_a_scale_and_a_tiepoint_place_the_pixels(tmp_path):
    tags = {
        33550: (DOUBLE, (0.5, 0.25, 0.0)),
        33922: (DOUBLE, (10.0, 4.0, 0.0, 500_000.0, 5_000_000.0, 0.0)),
        34735: UTM,
    }
    place = read_georeference(geotiff(tmp_path / "field.tif", tags))
    assert place.epsg == 32633
    assert place.place([(10, 4)]) == [[500_000.0, 5_000_000.0]]
    assert place.place([(12, 8)]) == [[500_001.0, 4_999_999.0]]


def test_a_matrix_and_pixels_that_are_points(tmp_path):
    matrix = (2.0, 1.0, 0.0, 100.0, 0.5, -3.0, 0.0, 200.0, *[0.0] * 7, 1.0)
    keys = (SHORT, (1, 1, 0, 2, 1025, 0, 1, 2, 2048, 0, 1, 4326))
    place = read_georeference(geotiff(tmp_path / "p.tif", {34264: (DOUBLE, matrix), 34735: keys}))
    assert place.epsg == 4326
    np.testing.assert_allclose(place.place([(0.5, 0.5), (1.5, 0.5)]), [[100, 200], [102, 200.5]])


def test_a_photo_that_says_nothing_has_no_place(tmp_path, flag_file):
    for photo in (flag_file, geotiff(tmp_path / "plain.tif", {})):
        assert read_georeference(photo) == Unplaced("it does not say where it lies")


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ((1024, 0, 1, 1, 3072, 0, 1, 32767), "its coordinate system has no EPSG code"),  # the user's own
        ((1024, 0, 1, 1, 2048, 0, 1, 4269), "names no coordinate system"),  # projected, it does not say how
        ((1025, 0, 1, 1), "names no coordinate system"),
    ],
)
def test_coordinates_of_an_unknown_system_are_not_taken_for_degrees(tmp_path, keys, reason):
    tags = {
        33550: (DOUBLE, (0.5, 0.25, 0.0)),
        33922: (DOUBLE, (0.0, 0.0, 0.0, 500_000.0, 5_000_000.0, 0.0)),
        34735: (SHORT, (1, 1, 0, len(keys) // 4, *keys)),
    }
    place = read_georeference(geotiff(tmp_path / "field.tif", tags))
    assert isinstance(place, Unplaced)
    assert reason in place.reason
    assert "gdal" in place.reason


def test_damaged_tags_are_refused(tmp_path):
    path = geotiff(tmp_path / "bad.tif", {33550: (DOUBLE, (0.5, 0.25, 0.0)), 34735: UTM})
    with pytest.raises(PhotoError, match=r"bad\.tif: broken georeference"):
        read_georeference(path)


def test_regions_become_features():
    labels = np.zeros((4, 6), np.uint16)
    labels[1:3, 1:3] = 1
    segmentation = Segmentation(
        photo=np.zeros((4, 6, 3), np.uint8),
        labels=labels,
        scores=np.full((4, 6), 0.5, np.float16),
        classes=("field", "barn"),
        background=None,
        model="tiny",
        engine="none",
        timings={},
    )
    north_up = Georeference((2.0, 0.0, 100.0, 0.0, -2.0, 50.0), 32633)
    record = json.loads(json.dumps(to_geojson(segmentation, north_up)))
    field, barn = record["features"]
    assert record["crs"]["properties"]["name"] == "urn:ogc:def:crs:EPSG::32633"
    assert barn["properties"] == {
        "name": "barn", "label": 1, "pixels": 4, "coverage": round(4 / 24, 6), "score": 0.5
    }  # fmt: skip
    ring = [[102.0, 48.0], [102.0, 44.0], [106.0, 44.0], [106.0, 48.0], [102.0, 48.0]]
    assert barn["geometry"] == {"type": "MultiPolygon", "coordinates": [[ring]]}
    outer, hole = field["geometry"]["coordinates"][0]
    assert hole == ring[::-1]
    assert -area(outer) == 4.0 * 24  # y points up on the ground: the sign turns
    south_up = Georeference((2.0, 0.0, 100.0, 0.0, 2.0, 50.0), 4326)
    record = to_geojson(segmentation, south_up)
    assert "crs" not in record
    assert -area(record["features"][1]["geometry"]["coordinates"][0][0]) == 16.0
