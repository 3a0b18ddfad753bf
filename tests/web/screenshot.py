"""Take the pictures of docs/browser.md: `python -m tests.web.screenshot`, which needs Chromium and npm."""

import tempfile
from pathlib import Path

from PIL import Image

from ovsdino_export.web.page import write_page
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import packaged_models
from tests.demo.browser import PHONE, chromium
from tests.demo.conftest import ROOT
from tests.web.browser import Visit

PICTURES = {
    "browser.png": (
        {"viewport": {"width": 1280, "height": 790}},
        "street.jpg",
        "road, car|taxi, bus, building, tree, person",
    ),
    "browser-phone.png": (PHONE, "beach.jpg", "rider, horse, beach|sand, sea, sky"),
}


def main() -> None:
    """Export the page of nano, segment a photo at each width, and take the pictures."""
    with tempfile.TemporaryDirectory() as temporary, chromium() as browser:
        folder = Path(temporary) / "page"
        write_page(load_bundle(packaged_models()["nano"]), folder)
        for name, (window, photo, classes) in PICTURES.items():
            target = ROOT / "docs" / "images" / name
            visit = Visit(browser, folder.as_uri(), **window)
            visit.segment(ROOT / "examples" / photo, classes)
            visit.page.screenshot(path=target)
            visit.close()
            with Image.open(target) as image:
                small = image.convert("RGB").quantize(256, dither=Image.Dither.NONE)
            small.save(target, optimize=True)


if __name__ == "__main__":
    main()
