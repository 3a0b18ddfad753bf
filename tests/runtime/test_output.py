import json
from dataclasses import replace
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.overlay import _plan_legend, draw_frame, draw_overlay, palette
from ovsdino_runtime.base.png import text_chunk, write_indexed_png, write_png
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.files import output
from ovsdino_runtime.files.output import save_json, save_labels, save_overlay


def segmentation(labels, count, *, background=None, photo=None):
    labels = np.asarray(labels, np.uint16)
    return Segmentation(
        photo=np.full((*labels.shape, 3), 128, np.uint8) if photo is None else photo,
        labels=labels,
        scores=np.full(labels.shape, 0.75, np.float16),
        classes=tuple(f"class {i}" for i in range(count)),
        background=background,
        model="tiny",
        engine="none",
        timings={"decode": 1.5, "merge": 2.0},
    )


QUARTERS = np.kron([[0, 1], [2, 2]], np.ones((40, 60), int))


def test_regions_are_sorted_by_size():
    regions = segmentation(QUARTERS, 5).regions()
    assert [(r.label, r.name, r.pixels, r.coverage, r.score) for r in regions] == [
        (2, "class 2", 4800, 0.5, 0.75),
        (0, "class 0", 2400, 0.25, 0.75),
        (1, "class 1", 2400, 0.25, 0.75),
    ]
    assert segmentation(QUARTERS, 5).coverage() == {"class 2": 0.5, "class 0": 0.25, "class 1": 0.25}


def test_colours_are_the_same_every_time_and_differ():
    colours = palette(1000)
    assert colours.dtype == np.uint8
    np.testing.assert_array_equal(colours[:40], palette(40))
    np.testing.assert_array_equal(colours[:20], palette(20))
    assert len({tuple(colour) for colour in colours.tolist()}) == 1000
    first = colours[:20].astype(int)
    distance = np.abs(first[:, None] - first[None]).sum(axis=2) + 999 * np.eye(20, dtype=int)
    assert distance.min() > 90  # of 765
    assert palette(70_000).shape == (70_000, 3)


def test_the_backgrounds_colour_is_black_and_moves_the_others():
    np.testing.assert_array_equal(palette(5, background=True), np.vstack([[0, 0, 0], palette(4)]))


def test_the_overlay_tints_regions_and_draws_lines():
    overlay = np.asarray(draw_overlay(segmentation(QUARTERS, 3)))
    colours = palette(3)
    for label, (row, column) in enumerate([(20, 30), (20, 90), (60, 60)]):
        expected = 128 + (colours[label].astype(float) - 128) * 140 / 255
        np.testing.assert_allclose(overlay[row, column], expected, atol=1)
    assert overlay[40, 30].min() > 230  # the line between two regions
    assert overlay[20, 60].min() > 230


def test_the_overlay_leaves_the_background_alone():
    overlay = np.asarray(draw_overlay(segmentation(QUARTERS, 3, background=0.5)))
    assert (overlay[20, 30] == 128).all()
    assert (overlay[20, 90] != 128).any()


@pytest.mark.parametrize("size", [(480, 640), (640, 400), (9, 9), (2, 300)])
def test_a_frame_has_the_photos_size_whatever_is_in_it(size):
    labels = np.random.default_rng(0).integers(0, 30, size)
    for one in (segmentation(labels, 30), segmentation(np.zeros(size), 30)):
        assert draw_frame(one).size == size[::-1]


def test_a_frame_is_the_overlay_with_the_legend_inside():
    labels = np.kron(QUARTERS, np.ones((6, 6), int))  # 480x720
    frame, overlay = (np.asarray(draw(segmentation(labels, 3))) for draw in (draw_frame, draw_overlay))
    np.testing.assert_array_equal(frame[:380], overlay[:380])
    assert (frame[440:480, 5:15] != overlay[440:480, 5:15]).all()


@pytest.mark.parametrize(
    ("size", "beside"),
    [((80, 120), False), ((480, 640), False), ((640, 400), True), ((9, 9), False), ((40, 900), False)],
)
def test_the_legend_is_beneath_or_beside_the_photo(size, beside):
    labels = np.arange(size[0] * size[1]).reshape(size) % 7
    image = draw_overlay(segmentation(labels, 7))
    photo = np.asarray(image)[: size[0], : size[1]]
    assert photo.shape == (*size, 3)
    if beside:
        legend = np.asarray(image)[:, size[1] :]
        assert image.height == size[0]
    else:
        legend = np.asarray(image)[size[0] :]
        assert image.width >= size[1]
    drawn = {tuple(colour) for colour in legend.reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in palette(7).tolist()} <= drawn  # every class has its swatch
    assert (255, 255, 255) in drawn


def test_a_legend_too_long_ends_in_a_sum():
    labels = np.arange(300 * 400).reshape(300, 400) % 200
    image = draw_overlay(segmentation(labels, 200))
    assert image.height < 300 * 2


def test_long_names_do_not_break_the_legend():
    result = segmentation(QUARTERS, 3)
    object.__setattr__(result, "classes", ("x" * 200, "Bäume", "木"))
    assert draw_overlay(result).width < 600


@pytest.mark.parametrize(("count", "mode"), [(3, "P"), (256, "P"), (257, "I"), (60_000, "I")])
def test_labels_come_back_from_their_file(tmp_path, count, mode):
    labels = np.random.default_rng(0).integers(0, count, (30, 40))
    labels[0, :2] = 0, count - 1
    save_labels(segmentation(labels, count), tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as image:
        assert image.mode.partition(";")[0] == mode  # "I;16" is read as "I" before Pillow 11
        np.testing.assert_array_equal(np.asarray(image), labels)
        if mode == "P":
            np.testing.assert_array_equal(np.reshape(image.getpalette(), (-1, 3))[:count], palette(count))


def test_the_overlay_comes_back_from_its_file(tmp_path):
    result = segmentation(QUARTERS, 3)
    save_overlay(result, tmp_path / "new" / "overlay.png")
    with Image.open(tmp_path / "new" / "overlay.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(result.overlay()))


def test_json(tmp_path):
    save_json(segmentation(QUARTERS, 4, background=0.25), tmp_path / "result.json", photo="Bäume.jpg")
    record = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert record["photo"] == "Bäume.jpg"
    assert (record["height"], record["width"]) == (80, 120)
    assert record["classes"] == [f"class {i}" for i in range(4)]
    assert record["background"] == 0.25
    assert record["regions"][0] == {
        "label": 2,
        "name": "class 2",
        "pixels": 4800,
        "coverage": 0.5,
        "score": 0.75,
    }
    assert record["versions"].keys() == {"ovsdino", "engine"}
    assert record["timings_ms"] == {"decode": 1.5, "merge": 2.0}


def test_a_photos_name_need_not_be_text(tmp_path):
    save_json(
        segmentation(QUARTERS, 4), tmp_path / "result.json", photo="\udcff.jpg"
    )  # a byte of another encoding
    assert json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["photo"] == "\udcff.jpg"


def test_a_file_that_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"overlay\.png: cannot be written"):
        save_overlay(segmentation(QUARTERS, 3), tmp_path / "file" / "overlay.png")
    (tmp_path / "labels.png").mkdir()
    with pytest.raises(OutputError, match=r"labels\.png: cannot be written"):
        save_labels(segmentation(QUARTERS, 3), tmp_path / "labels.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "labels.png"]


def test_a_crash_leaves_the_old_file(tmp_path, monkeypatch):
    (tmp_path / "result.json").write_text("old")

    def crash(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(output.Path, "replace", crash)
    with pytest.raises(OutputError, match="No space left on device"):
        save_json(segmentation(QUARTERS, 3), tmp_path / "result.json")
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"]
    assert (tmp_path / "result.json").read_text() == "old"


def test_what_was_asked_for_and_not_found_is_said(tmp_path):
    found = segmentation(QUARTERS, 5)
    assert [(r.name, r.pixels, r.coverage, r.score) for r in found.regions(absent=True)[3:]] == [
        ("class 3", 0, 0.0, None),
        ("class 4", 0, 0.0, None),
    ]
    assert found.absent() == ["class 3", "class 4"]
    assert segmentation(QUARTERS + 1, 5, background=0.3).absent() == ["class 4"]  # the background is no class
    save_json(found, tmp_path / "a.json")
    rows = json.loads((tmp_path / "a.json").read_text())["regions"]
    assert [(row["name"], row["pixels"], row["score"]) for row in rows[3:]] == [
        ("class 3", 0, None),
        ("class 4", 0, None),
    ]
    large = np.kron(QUARTERS, np.ones((6, 6), int))
    short, long = (_plan_legend(segmentation(large, count), 720, 480).entries for count in (5, 200))
    assert [entry[1:] for entry in short[3:]] == [("class 3", "0.0 %"), ("class 4", "0.0 %")]
    assert [entry[1:] for entry in long[3:]] == [("197 not found", "0.0 %")]


def test_the_least_confident_class_is_doubted():
    scores = np.where(QUARTERS == 1, 0.1, 0.9).astype(np.float16)
    found = replace(segmentation(QUARTERS, 3), scores=scores, doubt=0.3)
    assert found.doubtful().name == "class 1"
    assert replace(found, doubt=0.05).doubtful() is None
    assert replace(found, background=0.05).doubtful() is None
    assert replace(found, scores=None).doubtful() is None


def test_counts_and_scores_are_those_of_a_loop():
    random = np.random.default_rng(3)
    labels = random.integers(0, 7, (40, 60)).astype(np.uint16)
    labels[:20] = np.repeat(labels[:20, ::10], 10, axis=1)  # noise, and runs
    labels[5:9, 30:] = 255  # no data
    scores = random.random(labels.shape).astype(np.float16)
    result = replace(segmentation(labels, 8), scores=scores)
    regions = {region.label: region for region in result.regions(absent=True)}
    assert regions.keys() == set(range(8))
    for label, region in regions.items():
        mask = labels == label
        assert region.pixels == mask.sum()
        assert region.coverage == pytest.approx(mask.sum() / (labels != 255).sum())
        expected = scores[mask].astype(float).mean() if mask.any() else None
        assert region.score == (None if expected is None else pytest.approx(expected, rel=1e-9))


def test_a_tint_is_that_of_each_pixel_by_itself():
    """Against the mixing of one pixel after another; the last label holds no data and keeps its colour."""
    random = np.random.default_rng(4)
    photo = random.integers(0, 256, (30, 50, 3), dtype=np.uint8)
    labels = random.integers(0, 4, (6, 10)).repeat(5, axis=0).repeat(5, axis=1)
    labels[10:20, 10:20] = 255
    result = segmentation(labels, 4, background=0.5, photo=photo)
    drawn = np.asarray(draw_overlay(result))[:30, :50].astype(int)
    colours = palette(4, background=True).astype(int)
    for y, x in np.ndindex(30, 50):
        label = labels[y, x]
        line = (y and label != labels[y - 1, x]) or (x and label != labels[y, x - 1])
        colour, opacity = (255, 235) if line else (colours[label % 4], 140 if label in (1, 2, 3) else 0)
        expected = photo[y, x] + (colour - photo[y, x].astype(int)) * opacity / 255
        np.testing.assert_allclose(drawn[y, x], expected, atol=1)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (31, 64), (1, 100_000), (301, 303)])
@pytest.mark.parametrize("colours", [1, 256])
def test_a_png_is_read_by_pillow(size, colours):
    pixels = np.random.default_rng(5).integers(0, colours, (*size, 3), dtype=np.uint8)
    write_png(file := BytesIO(), pixels, chunks=[text_chunk("Software", "ovsdino")])
    with Image.open(file) as image:
        image.verify()  # every check sum
    with Image.open(file) as image:
        assert (image.mode, image.text) == ("RGB", {"Software": "ovsdino"})
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (5, 1), (31, 64)])
@pytest.mark.parametrize("count", [2, 256, 65536])
def test_a_png_of_labels_is_read_by_pillow(size, count):
    labels = np.random.default_rng(6).integers(0, count, size).astype(np.uint16)
    colours = palette(count) if count <= 256 else None
    write_indexed_png(file := BytesIO(), labels, colours, chunks=[text_chunk("Software", "ovsdino")])
    with Image.open(file) as image:
        image.verify()  # every check sum
    with Image.open(file) as image:
        assert image.text == {"Software": "ovsdino"}
        np.testing.assert_array_equal(np.asarray(image), labels)
