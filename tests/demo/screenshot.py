"""Make docs/images/demo.png again: `python -m tests.demo.screenshot`."""

import re
import tempfile
from pathlib import Path

from PIL import Image

from tests.demo.browser import Visit, chromium
from tests.demo.conftest import ROOT, started

WINDOW = {"viewport": {"width": 1180, "height": 790}}
TARGET = ROOT / "docs" / "images" / "demo.png"


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        started(Path(folder)) as (address, _),
        chromium() as browser,
    ):
        visit = Visit(browser, address, WINDOW)
        visit.upload(ROOT / "examples" / "lighthouse.png")
        visit.wait_for_answer("This answer in")
        visit.forget_words()
        visit.type_words("lighthouse, house, rock, sea, sky")
        visit.wait_for_names("lighthouse", "house", "rock", "sea", "sky")
        for turn in range(20):  # until nothing else on the machine is measured
            visit.page.fill("#background input[type=number]", str(0.01 * (turn % 2)))
            visit.page.keyboard.press("Tab")
            visit.page.wait_for_timeout(1000)
            if turn % 2 == 0 and re.search(r"This answer in \d\d ms", visit.page.inner_text("#view .facts")):
                break
        visit.page.keyboard.press("Escape")
        visit.point_at(0.3, 0.72)
        visit.page.screenshot(path=TARGET)
        visit.close()
    Image.open(TARGET).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(TARGET, optimize=True)


if __name__ == "__main__":
    main()
