"""The exported page as a person uses it, in Chromium, with the real ONNX Runtime Web."""

import shutil

import numpy as np
import pytest
from PIL import Image

from ovsdino_export.web.page import write_page
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import packaged_models
from ovsdino_runtime.segmenter import Segmenter
from tests.demo.browser import PHONE, chromium
from tests.demo.conftest import ROOT
from tests.web.browser import Visit, static_host

pytestmark = pytest.mark.browser

PHOTOS = {
    "cat.png": "cat, sofa",
    "beach.jpg": "rider, horse, beach",
    "street.jpg": "road, car|taxi, building, sky, person, tree",
}
SAME = 0.995  # share of the pixels with the runtime's label


@pytest.fixture(scope="module")
def folder(npm_package, tmp_path_factory):
    """The page of nano; its name has a space, as folders of people have."""
    folder = tmp_path_factory.mktemp("web") / "my page"
    write_page(load_bundle(packaged_models()["nano"]), folder, runtime=npm_package)
    return folder


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def segmenter():
    with Segmenter.load("nano", threads=1) as segmenter:
        yield segmenter


@pytest.fixture
def visit(browser, folder):
    visit = Visit(browser, folder.as_uri())
    yield visit
    visit.close()


def check_photos(visit, segmenter):
    """Compare the labels of three photos with the runtime's; the last line of the page."""
    for name, classes in PHOTOS.items():
        line = visit.segment(ROOT / "examples" / name, classes)
        assert line.startswith("Done: photo "), line
        expected = segmenter(ROOT / "examples" / name, classes)
        assert (visit.labels() == expected.labels).mean() >= SAME
        coverage = {region.name: region.coverage for region in expected.regions(absent=True)}
        assert [name for name, _ in visit.legend()] == list(coverage)
        for region, share in visit.legend():
            shown = 0 if share.startswith("<") else float(share.removesuffix(" %")) / 100
            assert shown == pytest.approx(coverage[region], abs=0.006)
    return line


def test_the_page_on_a_disk_gives_the_labels_of_the_runtime(visit, segmenter):
    assert check_photos(visit, segmenter).endswith("WebAssembly, 1 thread.")


def test_the_page_on_a_host_gives_the_labels_of_the_runtime_in_threads(browser, folder, segmenter):
    with static_host(folder) as address:
        visit = Visit(browser, address)
        line = check_photos(visit, segmenter)
        assert visit.page.evaluate("self.crossOriginIsolated")
        threads = min(4, max(1, visit.page.evaluate("navigator.hardwareConcurrency") // 2))
        assert line.endswith(f"WebAssembly, {threads} thread{'s' if threads > 1 else ''}.")
        visit.close()


def test_other_words_backgrounds_and_files(visit, segmenter, tmp_path):
    page, cat = visit.page, ROOT / "examples" / "cat.png"
    visit.segment(cat, "cat")  # one class alone has a background
    expected = segmenter(cat, "cat")
    assert [name for name, _ in visit.legend()] == [region.name for region in expected.regions()]
    assert (visit.labels() == expected.labels).mean() >= SAME

    visit.begin()
    page.check("#only")
    assert visit.wait().startswith("Done: classes ")  # the photo was encoded before
    expected = segmenter(cat, "cat", background_classes="surroundings")
    assert (visit.labels() == expected.labels).mean() >= SAME

    with page.expect_download() as download:
        page.click("#save-labels")
    assert download.value.suggested_filename == "cat_labels.png"
    download.value.save_as(tmp_path / "labels.png")
    with Image.open(tmp_path / "labels.png") as labels:
        assert labels.mode == "L"
        assert np.array_equal(np.asarray(labels), visit.labels())
    with page.expect_download() as download:
        page.click("#save-overlay")
    download.value.save_as(tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as overlay:
        assert overlay.size == labels.size

    visit.begin()
    page.fill("#classes", "ade150")
    page.locator("#classes").blur()  # other words are segmented at once
    assert visit.wait().startswith("Done")
    assert len(page.evaluate("shown.names")) == 151  # with the background


def test_what_is_wrong_is_one_line_and_the_next_photo_works(visit, tmp_path):
    page = visit.page
    page.click("#start")
    assert visit.wait() == "no photo is chosen; choose one first"
    bad = tmp_path / "bad.jpg"
    bad.write_text("this is no photo")
    line = visit.segment(bad)
    assert line == "bad.jpg: not a photo that this browser can read; use JPEG, PNG or WebP"
    assert visit.segment(ROOT / "examples" / "cat.png", "cat, Cat") == (
        "class 2 has the name of class 1: 'Cat'; rename one"
    )
    visit.begin()
    page.fill("#classes", "\u8eca, cat")
    page.click("#start")
    assert "has no letters that the model knows" in visit.wait()
    visit.begin()
    page.fill("#classes", "cat, sofa")
    page.click("#start")
    assert visit.wait().startswith("Done")
    assert page.locator("#message.error").count() == 0


def test_a_page_without_its_data_says_so(browser, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "page")
    (tmp_path / "page" / "data" / "vision.onnx.0.js").unlink()
    visit = Visit(browser, (tmp_path / "page").as_uri())
    assert visit.segment(ROOT / "examples" / "cat.png") == (
        "data/vision.onnx.0.js cannot be loaded; reload the page, or copy its folder whole"
    )
    visit.close()


def test_on_a_phone_the_result_is_above_the_settings_and_nothing_is_cut_off(browser, folder):
    visit = Visit(browser, folder.as_uri(), **PHONE)
    visit.segment(ROOT / "examples" / "cat.png", "cat, sofa")
    page = visit.page
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    result, settings = (page.locator(name).bounding_box() for name in ("#result", "#settings"))
    assert result["y"] + result["height"] <= settings["y"]
    box = page.locator("#regions").bounding_box()
    page.touchscreen.tap(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    assert page.inner_text("#tip") in ("cat", "sofa")
    visit.close()
