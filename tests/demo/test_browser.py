"""The page as a person uses it, in Chromium."""

import json
import re

import pytest
from PIL import Image

from tests.demo.browser import DESKTOP, PHONE, Visit, chromium
from tests.demo.conftest import ROOT

pytestmark = pytest.mark.browser

CAT = ROOT / "examples" / "cat.png"


@pytest.fixture(scope="module")
def browser():
    with chromium() as browser:
        yield browser


@pytest.fixture
def visit(browser, server):
    visit = Visit(browser, server, DESKTOP)
    yield visit
    visit.close()


def test_upload_name_rename_point_and_slide(visit):
    page = visit.page
    visit.upload(ROOT / "examples" / "lighthouse.png")
    visit.wait_for_answer(
        "This answer in", "photo ", "nano on ONNX Runtime"
    )  # the words that are there at first

    visit.forget_words()
    assert visit.error() == "no class is given; write some words, such as 'cat, grass, sky'"
    visit.type_words("rock|stone, sky")
    visit.wait_for_answer("Photo seen before")  # its features were at hand
    visit.wait_for_names("rock", "sky")
    assert visit.chips() == ["rock|stone", "sky"]

    assert re.fullmatch(r"sky +\d+ %", visit.point_at(0.5, 0.1))
    assert re.fullmatch(r"rock +\d+ %", visit.point_at(0.3, 0.75))
    colours, opacity = visit.colours()
    assert len(colours) == 3  # two regions and the line between them
    assert opacity == "0.6"
    page.locator("#view .opacity input").fill("25")
    assert visit.colours() == [colours, "0.25"]  # at once, in the browser

    page.check("#around input")
    visit.wait_for_names("sky", "background")  # the sky is a word; nano takes the rocks for a mountain
    page.uncheck("#around input")
    visit.wait_for_names("rock", "sky")
    page.fill("#background input[type=number]", "1")
    page.keyboard.press("Tab")
    visit.wait_for_names("background")
    assert visit.colours()[0] == ["0 0 0 0"]  # the photo itself
    assert page.locator("#view .opacity input").input_value() == "25"  # still


def test_a_bad_file_is_one_line_and_the_next_photo_is_named(visit, tmp_path):
    bad = tmp_path / "bad.jpg"
    bad.write_text("this is no photo")
    visit.upload(bad)
    assert visit.error() == "not a photo, or of a format that Pillow cannot read; convert it to PNG or JPEG"
    assert visit.page.locator("#view .answer").is_hidden()
    torn = tmp_path / "torn.png"
    torn.write_bytes(CAT.read_bytes()[:100_000])
    visit.upload(torn)
    visit.page.wait_for_function(
        "document.querySelector('#view .error')?.textContent.startsWith('broken photo')"
    )
    visit.upload(CAT)
    visit.wait_for_answer("This answer in")
    assert visit.page.locator("#view .message").inner_text() == ""


def test_many_words_are_named_and_too_many_are_refused(visit):
    visit.upload(CAT)
    visit.wait_for_answer("This answer in")
    visit.forget_words()
    visit.type_words(", ".join(["cat", *(f"thing {i}" for i in range(119))]))
    visit.page.wait_for_function("document.querySelectorAll('#words .token').length === 120")
    visit.wait_for_answer("Photo seen before")
    assert visit.page.locator("#words").bounding_box()["height"] < 450  # chips scroll in their box
    visit.type_words(", ".join(f"more {i}" for i in range(181)))
    assert visit.error().startswith("got 301 classes: expected at most 300")
    visit.forget_words()
    visit.type_words("cat")
    visit.wait_for_names("cat")


def test_what_is_downloaded_and_copied(visit, tmp_path):
    page = visit.page
    visit.upload(CAT)
    page.wait_for_selector("#view .pending, #view:has(.pending)")  # the state while it works
    visit.wait_for_answer("This answer in", "photo ")
    assert "NaN" not in page.inner_text("#view .facts")
    sizes = {}
    for name, file in (("overlay", "overlay.png"), ("labels", "labels.png"), ("json", "result.json")):
        with page.expect_download() as download:
            page.click(f"#view [data-file={name}]")
        assert download.value.suggested_filename == file
        download.value.save_as(tmp_path / file)
    for name in ("overlay", "labels"):
        with Image.open(tmp_path / f"{name}.png") as image:
            sizes[name] = image.size
    about = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert sizes["labels"] == (about["width"], about["height"])
    assert sizes["overlay"][0] == about["width"]
    assert sizes["overlay"][1] > about["height"]  # the legend is beneath
    page.click("#view .python summary")
    assert "Segmenter.load('nano', threads=1)" in page.inner_text("#view .python pre")
    page.click("#view [data-copy]")
    page.wait_for_selector("#view [data-copy]:text-matches('^(Copied|Selected)$')")


def test_a_photo_from_the_camera(visit):
    page = visit.page
    page.click("[aria-label='Capture from camera']")
    page.click("text=Click to Access Webcam")
    page.wait_for_function("document.querySelector('#photo video')?.readyState >= 2")  # it shows a picture
    page.click("#photo button[aria-label*='apture photo'], #photo button[aria-label*='capture']")
    visit.wait_for_answer("This answer in")


def test_an_example_on_a_phone(browser, server):
    visit = Visit(browser, server, PHONE)
    visit.page.locator("#examples button").nth(3).tap()
    visit.page.wait_for_function("document.querySelectorAll('#words .token').length === 2")
    visit.wait_for_answer("This answer in")
    assert visit.chips() == ["parrot", "plant"]
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390  # nothing is cut off
    assert re.fullmatch(r"(parrot|plant) +\d+ %", visit.point_at(0.5, 0.6))
    tops = [visit.page.locator(f"#{name}").bounding_box()["y"] for name in ("result", "settings", "ask")]
    assert tops == sorted(tops)  # the result is above the settings
    visit.page.locator("#view .python summary").tap()
    assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
    visit.close()
