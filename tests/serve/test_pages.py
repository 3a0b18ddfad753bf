"""What a person who opens the server sees: every file comes from the server itself."""

import json
import re
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
import requests
from PIL import Image

from ovsdino_runtime.serve.access import AccessOptions
from tests.demo.browser import DESKTOP, chromium
from tests.serve.running import ask, png, read_png, running

FLAG = np.repeat(np.eye(3, dtype=np.uint8) * 255, 50, axis=0)[None].repeat(90, axis=0)  # (90, 150, 3)
KEY = "0123456789abcdef"


def test_a_browser_gets_a_page_and_a_program_json(address):
    about = requests.get(address, timeout=9).json()
    assert (about["docs"], about["description"]) == ("/docs", "/openapi.json")
    page = requests.get(address, headers={"Accept": "text/html,*/*;q=0.8"}, timeout=9)
    assert page.headers["content-type"].startswith("text/html")
    assert f"{address}/segment" in page.text
    links = re.findall(r'href="([^"]+)"', page.text)
    assert links == ["/docs", "/openapi.json", "/healthz"]
    for link in links:
        assert requests.get(address + link, timeout=9).status_code == 200


def test_a_host_name_cannot_write_into_the_page(segmenter):
    with running(segmenter) as address:
        headers = {"Accept": "text/html", "Host": "a<script>alert(1)</script>"}
        assert "<script" not in requests.get(address, headers=headers, timeout=9).text


def test_the_docs_load_nothing_from_elsewhere(address):
    page = requests.get(f"{address}/docs", timeout=9)
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sorted(sources) == ["/docs/favicon.png", "/docs/swagger-ui-bundle.js", "/docs/swagger-ui.css"]
    for source in sources:
        answer = requests.get(address + source, timeout=9)
        assert (answer.status_code, len(answer.content) > 1000) == (200, True)
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "validator.swagger.io" not in page.text


def test_the_docs_need_no_key_and_describe_it(segmenter):
    with running(segmenter, access=AccessOptions(keys=(KEY,))) as address:
        assert requests.get(f"{address}/docs", timeout=9).status_code == 200
        assert requests.get(f"{address}/docs/swagger-ui.css", timeout=9).status_code == 200
        described = requests.get(f"{address}/openapi.json", timeout=9).json()
        assert described["paths"]["/segment"]["post"]["security"] == [{"HTTPBearer": []}]


def test_the_overlay_is_the_runtimes(address, reference):
    answer = ask(address, png(FLAG), classes="red, green, blue", format="overlay")
    assert answer.headers["content-type"] == "image/png"
    drawn = Image.open(BytesIO(answer.content))
    expected = reference(FLAG, ["red", "green", "blue"]).overlay()
    assert np.array_equal(np.asarray(drawn), np.asarray(expected))
    assert json.loads(drawn.text["ovsdino"])["classes"] == ["red", "green", "blue"]


def test_base64_holds_both_pictures_and_the_regions(address):
    fields = {"classes": "red, green, blue"}
    both = ask(address, png(FLAG), format="base64", **fields).json()
    labels, _ = read_png(ask(address, png(FLAG), **fields))
    assert np.array_equal(np.asarray(Image.open(BytesIO(b64decode(both["labels_png"])))), labels)
    overlay = ask(address, png(FLAG), format="overlay", **fields).content
    assert b64decode(both["overlay_png"]) == overlay
    lengths = ask(address, png(FLAG), format="rle", **fields).json()
    for region in lengths["regions"]:
        del region["segmentation"]
    assert both["regions"] == lengths["regions"]


@pytest.mark.browser
def test_a_photo_is_tried_in_the_docs(address, tmp_path):
    (tmp_path / "flag.png").write_bytes(png(FLAG))
    with chromium() as browser:
        page = browser.new_context(**DESKTOP).new_page()
        asked = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        page.click("a[href='/docs']")
        page.click("#operations-default-_segment_segment_post .opblock-summary-control")
        page.click("text=Try it out")
        page.set_input_files("input[type=file]", tmp_path / "flag.png")
        row = page.locator("tr", has=page.locator("td.parameters-col_name", has_text="classes")).first
        row.locator("input[type=text], textarea").first.fill("red, green, blue")
        page.select_option("tr:has-text('format') select", "overlay")
        page.click("text=Execute")
        page.wait_for_selector(".responses-inner img")
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)
