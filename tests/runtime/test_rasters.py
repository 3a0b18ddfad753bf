"""Rasters beyond the pixel limit: the labels are those of the whole raster, and memory those of a tile."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from ovsdino_runtime import PhotoOptions, Segmenter
from ovsdino_runtime.base.errors import OptionError, PhotoError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.photo import decode_photo
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.cli import run
from ovsdino_runtime.cli_rasters import tile_options
from ovsdino_runtime.files.raster_overview import RasterOverview
from ovsdino_runtime.files.rasters import RasterJob, StoppedError, label_raster
from ovsdino_runtime.geometry.raster_tiles import TilePlan, plan_for_view, plan_for_windows
from ovsdino_runtime.geometry.windows import plan_windows, window_starts

rasterio = pytest.importorskip("rasterio")
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")

COLOURS = "red, green, blue, yellow, white, black"
TILES = plan_for_windows(64, 32, max_side=128)  # of the tiny bundle
PLACE = rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 4_600_000)


def write_raster(path, pixels, **profile):
    """Write (H, W, C) as a tiled GeoTIFF in UTM 33N."""
    bands = np.moveaxis(pixels, 2, 0)
    profile = {"crs": "EPSG:32633", "transform": PLACE, "photometric": "RGB", **profile}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=bands.shape[2],
        height=bands.shape[1],
        count=len(bands),
        dtype=bands.dtype,
        tiled=True,
        blockxsize=64,
        blockysize=64,
        **profile,
    ) as raster:
        raster.write(bands)
    return path


def patchwork(height, width, seed=0):
    """Draw noisy squares of pure colours, smaller than a window. Shape: (height, width, 3)."""
    random = np.random.default_rng(seed)
    cells = random.integers(0, 2, (height // 24 + 1, width // 24 + 1, 3)) * 200
    photo = np.kron(cells, np.ones((24, 24, 1), int))[:height, :width]
    return (photo + random.integers(0, 55, photo.shape)).astype(np.uint8)


@pytest.fixture
def segmenter(shared_bundle):
    options = tile_options(shared_bundle.manifest, RuntimeOptions(threads=1), TILES)
    with Segmenter.load(shared_bundle.path, options) as opened:
        yield opened


def make_job(path, segmenter, **changes):
    choice = segmenter.choose(COLOURS)
    given = {"kinds": ("labels", "json"), "tiles": TILES, **changes}
    stem = path.with_name(f"out-{path.stem}")
    return RasterJob(
        path=path, stem=stem, classes=choice.vocabulary.names, background=choice.threshold, **given
    )


def label(path, segmenter, **changes):
    job = make_job(path, segmenter, **changes)
    result = label_raster(job, lambda photo: segmenter(photo, COLOURS), about={"model": "tiny"})
    with rasterio.open(job.file("labels")) as labels:
        return result, labels.read(1), labels.profile, job


@given(st.integers(8, 80), st.data(), st.integers(1, 400), st.integers(1, 400))
@settings(max_examples=100, deadline=None)
def test_cores_cover_a_raster_once_and_tiles_hold_the_windows_of_the_whole(size, data, height, width):
    stride = data.draw(st.integers(size // 8, size))
    plan = plan_for_windows(size, stride, max_side=data.draw(st.integers(size, 4 * size)))
    covered = np.zeros((height, width), int)
    tiles = list(plan.tiles(height, width))
    for tile in tiles:
        core, read = tile.core, tile.read
        covered[core.top : core.top + core.height, core.left : core.left + core.width] += 1
        assert 0 <= read.top <= core.top
        assert core.left + core.width <= read.left + read.width <= width
        assert max(read.height, read.width) <= plan.side
    assert (covered == 1).all()
    assert len(tiles) == plan.count(height, width)
    whole = set(window_starts(width, size=size, stride=stride)[:-1])  # but for the last, which moves inward
    for tile in tiles[: -(-width // plan.step)]:
        start, stop = tile.core.left, tile.core.left + tile.core.width
        own = {tile.read.left + s for s in window_starts(plan.side, size=size, stride=stride)}
        wanted = {s for s in whole if s < stop and s + size > start}
        assert wanted <= own
        assert {s for s in own if s < stop and s + size > start and s <= max(whole, default=-1)} == wanted


def test_tiles_of_models_with_one_view_have_margins():
    plan = plan_for_view(512)
    assert (plan.side, plan.before, plan.step) == (512, 128, 256)
    with pytest.raises(ValueError, match="no tile has a core of 0 px"):
        TilePlan(step=0, before=1, after=1)


def test_labels_are_those_of_the_whole_raster(segmenter, shared_bundle, tmp_path):
    """At the same resolution, but for the last window at the right and the lower edge."""
    pixels = patchwork(230, 250)
    with Segmenter.load(shared_bundle.path, threads=1, short_side=230) as whole:
        assert len(plan_windows(230, 250, size=64, stride=32)) > 30
        expected = whole(pixels, COLOURS).labels
    _, labels, profile, _ = label(write_raster(tmp_path / "scene.tif", pixels), segmenter)
    inside = (slice(0, 230 - 64), slice(0, 250 - 64))
    np.testing.assert_array_equal(labels[inside], expected[inside])
    assert (labels == expected).mean() > 0.95
    assert TILES.count(230, 250) == 16  # nowhere near one tile: the joins lie inside
    assert (profile["width"], profile["height"], profile["dtype"]) == (250, 230, "uint8")
    assert (profile["nodata"], profile["compress"], profile["tiled"]) == (255, "deflate", True)
    assert profile["crs"].to_epsg() == 32633
    assert profile["transform"] == PLACE


def test_json_counts_what_the_label_raster_holds(segmenter, tmp_path):
    pixels = patchwork(200, 170)
    pixels[:80, :90] = 0
    file = write_raster(tmp_path / "scene.tif", pixels, nodata=0)
    result, labels, _, job = label(file, segmenter)
    assert (labels[:80, :90] == 255).all()  # a whole tile of it, and parts of others
    assert (labels[80:] < 6).all()
    record = json.loads(job.file("json").read_text())
    for region in record["regions"]:
        assert region["pixels"] == (labels == region["label"]).sum()
    assert sum(region["pixels"] for region in record["regions"]) == labels.size - 80 * 90
    assert record["notes"] == [f"{80 * 90} pixels hold no data: their label is 255"]
    assert record["model"] == "tiny"
    assert result.files == [job.file("labels"), job.file("json")]
    with rasterio.open(job.file("labels")) as raster:
        assert json.loads(raster.tags(1)["classes"]) == COLOURS.split(", ")
        assert raster.colormap(1)[0][3] == 255


@pytest.mark.parametrize("max_side", [300, 100, 64, 7, 1])
def test_an_overview_reduces_the_raster_by_a_whole_factor(max_side):
    pixels = patchwork(170, 230)
    labels = (pixels[:, :, 0] > 127).astype(np.uint16)
    labels[:30, :40] = 255
    overview = RasterOverview(170, 230, classes=("dark", "light"), background=None, max_side=max_side)
    for tile in TilePlan(step=53, before=0, after=0).tiles(170, 230):
        core = tile.core
        part = np.s_[core.top : core.top + core.height, core.left : core.left + core.width]
        overview.add(core, pixels[part], labels[part])
    photo, reduced = overview.reduced()
    factor = overview.factor
    assert max(reduced.shape) <= max_side
    assert photo.shape == (*reduced.shape, 3)
    for row, column in np.ndindex(reduced.shape):
        square = np.s_[row * factor : (row + 1) * factor, column * factor : (column + 1) * factor]
        expected = pixels[square].reshape(-1, 3).mean(axis=0)
        assert np.abs(photo[row, column] - expected).max() <= 0.5
        middle = row * factor + factor // 2, column * factor + factor // 2
        if middle[0] < 170 and middle[1] < 230:
            assert reduced[row, column] == labels[middle]


def test_the_overlay_of_a_small_raster_is_that_of_the_photo(segmenter, tmp_path):
    pixels = patchwork(150, 140)
    file = write_raster(tmp_path / "scene.tif", pixels)
    result, labels, _, job = label(file, segmenter, kinds=("overlay",))
    assert result.files == [job.file("labels"), job.file("overlay")]
    whole = Segmentation(
        pixels, labels.astype(np.uint16), None, job.classes, None, model="", engine="", timings={}
    )
    with Image.open(job.file("overlay")) as overlay:
        assert np.array_equal(np.asarray(overlay), np.asarray(whole.overlay()))


@pytest.mark.parametrize("by_windows", [True, False])
@pytest.mark.parametrize(("extra", "note"), [(1, "band 4 of 4 left out"), (2, "bands 4 to 5 of 5 left out")])
def test_bands_without_a_name_are_left_out_with_a_note(segmenter, tmp_path, by_windows, extra, note):
    pixels = patchwork(150, 140)
    more = np.full((150, 140, extra), 9, np.uint8)
    file = write_raster(tmp_path / "scene.tif", np.dstack([pixels, more]), alpha="NO")
    if by_windows:
        result, labels, _, _ = label(file, segmenter)
        _, expected, _, _ = label(write_raster(tmp_path / "plain.tif", pixels), segmenter)
        assert np.array_equal(labels, expected)
        notes = result.notes
    else:
        decoded = decode_photo(file)
        assert np.array_equal(decoded.photo, pixels)
        notes = decoded.notes
    assert [text for text in notes if text.startswith(note)] == list(notes) != []


@pytest.mark.parametrize("layout", ["12 of 16 bits", "bands", "alpha", "mask", "grey"])
def test_a_raster_of_another_layout_equals_the_plain_one(segmenter, tmp_path, layout):
    pixels = patchwork(150, 140)
    if layout == "grey":
        pixels = np.repeat(pixels[:, :, :1], 3, axis=2)
    _, expected, _, _ = label(write_raster(tmp_path / "plain.tif", pixels), segmenter)
    file, options, notes = tmp_path / "other.tif", PhotoOptions(), 0
    if layout == "12 of 16 bits":
        wide = pixels.astype(np.uint16) * 16
        wide[0, 0] = 255 * 16
        write_raster(file, wide)
        notes = 1
    elif layout == "bands":
        extra = np.full((150, 140, 1), 7, np.uint8)
        write_raster(file, np.dstack([extra, pixels[:, :, ::-1]]), photometric="MINISBLACK")
        options = PhotoOptions(bands=(4, 3, 2))
    elif layout == "grey":
        write_raster(file, pixels[:, :, :1], photometric="MINISBLACK")
    else:
        clear = np.full((150, 140), 255, np.uint8)
        clear[:20] = 0
        expected = np.where(clear == 0, 255, expected)
        notes = 1
        if layout == "alpha":
            write_raster(file, np.dstack([pixels, clear]), alpha="YES")
        else:
            write_raster(file, pixels)
            with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(file, "r+") as raster:
                raster.write_mask(clear)
    result, labels, _, _ = label(file, segmenter, photo_options=options)
    different = labels != expected
    different[:65, :65] &= layout != "12 of 16 bits"  # its one bright pixel
    assert not different.any()
    assert len(result.notes) == notes


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"photometric": "MINISBLACK"}, "nothing says which bands are red, green and blue; give --bands"),
        ({"dtype": np.float32}, "pixels are float32 in"),
    ],
)
def test_rasters_that_cannot_be_read_right_are_refused_and_leave_nothing(
    segmenter, tmp_path, change, message
):
    pixels = patchwork(150, 140).astype(change.pop("dtype", np.uint8))
    file = write_raster(tmp_path / "scene.tif", pixels, **change)
    with pytest.raises(PhotoError, match=message):
        label(file, segmenter)
    assert [path.name for path in tmp_path.glob("*out*")] == []


def test_a_stopped_run_leaves_nothing_half_written(segmenter, tmp_path):
    file = write_raster(tmp_path / "scene.tif", patchwork(150, 140))
    stop = threading.Event()
    with pytest.raises(StoppedError, match="stopped after 2 of 9 tiles; nothing was written"):
        label_raster(
            make_job(file, segmenter),
            lambda photo: segmenter(photo, COLOURS),
            about={},
            done=lambda number, _: stop.set() if number == 2 else None,
            stop=stop,
        )
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".tif", ".json")] == ["scene.tif"]


def test_options_that_would_differ_from_tile_to_tile_are_refused(manifest):
    for options in (RuntimeOptions(short_side=100), RuntimeOptions(inference="whole")):
        with pytest.raises(OptionError, match="has no effect on rasters that are read by windows"):
            tile_options(manifest, options, TILES)
    assert tile_options(manifest, RuntimeOptions(), TILES).short_side == TILES.side


@pytest.fixture
def invoke(shared_bundle, tmp_path, monkeypatch):
    """Run the command where a photo has at most 20,000 pixels."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10_000)

    def invoke(*arguments):
        command = ["--classes", COLOURS, "--model", shared_bundle.path, "--out", tmp_path / "out"]
        return CliRunner().invoke(run, [str(text) for text in (*arguments, *command, "--threads", "1")])

    return invoke


def test_the_command_reads_large_rasters_by_windows_and_photos_beside_them(invoke, tmp_path, flag):
    scene = write_raster(tmp_path / "scene.tif", patchwork(260, 300))
    Image.fromarray(flag).save(tmp_path / "flag.png")
    done = invoke(scene, tmp_path / "flag.png", "--save", "labels,json,geojson,coco,overlay")
    assert done.exit_code == 0, done.output
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    expected = [
        "coco.json",
        "flag.json",
        "flag_labels.png",
        "flag_overlay.png",
        "scene.geojson",
        "scene.json",
        "scene_labels.tif",
        "scene_overlay.png",
    ]
    assert names == expected
    assert f"{scene} (300x260)" in done.output
    assert "100 %" in done.output
    assert "too large for coco: not written" in done.output


def test_the_exit_code_counts_rasters(invoke, tmp_path, flag):
    bad = write_raster(tmp_path / "bad.tif", patchwork(200, 200), photometric="MINISBLACK")
    Image.fromarray(flag).save(tmp_path / "flag.png")
    assert invoke(bad).exit_code == 2
    assert invoke(bad, tmp_path / "flag.png").exit_code == 1


def test_a_source_is_not_overwritten(invoke, tmp_path):
    (tmp_path / "out").mkdir()
    scene = write_raster(tmp_path / "scene.tif", patchwork(200, 200))
    other = write_raster(tmp_path / "out/scene_labels.tif", patchwork(200, 200))
    done = invoke(scene, other)
    assert (done.exit_code, "is a source, and would be overwritten" in done.output) == (2, True)


def test_without_rasterio_the_extra_is_named(invoke, tmp_path, monkeypatch):
    scene = write_raster(tmp_path / "scene.tif", patchwork(200, 200))
    monkeypatch.setitem(sys.modules, "rasterio", None)
    done = invoke(scene)
    assert done.exit_code == 2
    assert "are read by windows, which needs rasterio: pip install '.[geo]'" in done.output


MEASURE = """
import resource, sys
from pathlib import Path
import numpy as np
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.files.raster_overview import RasterOverview
from ovsdino_runtime.files.rasters import RasterJob, label_raster
from ovsdino_runtime.geometry.raster_tiles import TilePlan

def segment(photo):
    labels = (photo[:, :, 0] > 127).astype(np.uint16)
    return Segmentation(photo, labels, None, ("dark", "light"), None, "none", "none", {})

path = Path(sys.argv[1])
job = RasterJob(path=path, stem=path.with_name("out"), classes=("dark", "light"), background=None,
                kinds=("labels", "overlay"), tiles=TilePlan(step=512, before=64, after=64))
result = label_raster(job, segment, about={})
print(result.pixels.sum(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the unit of ru_maxrss is Linux's")
def test_memory_does_not_grow_with_the_raster(tmp_path):
    """A raster of 16 times as many pixels, 201 MB in memory, takes at most 60 MB more."""
    peaks = []
    for side in (2048, 8192):
        file = tmp_path / f"{side}.tif"
        block = np.random.default_rng(0).integers(0, 256, (3, 64, side), dtype=np.uint8)
        with rasterio.open(
            file, "w", driver="GTiff", width=side, height=side, count=3, dtype="uint8", photometric="RGB"
        ) as raster:
            for top in range(0, side, 64):
                raster.write(block, window=((top, top + 64), (0, side)))
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, str(file)],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONPATH": ":".join(sys.path), "PATH": "", "OMP_NUM_THREADS": "1"},
        )
        pixels, peak = map(int, done.stdout.split())
        assert pixels == side * side
        peaks.append(peak)
        file.unlink()
    assert peaks[1] - peaks[0] < 60_000  # [KB]
    assert Path(tmp_path / "out_labels.tif").is_file()
