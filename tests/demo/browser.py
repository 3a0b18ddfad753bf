"""A page in a real browser, without a window, and a person's steps on it."""

import shutil
from contextlib import contextmanager

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
DESKTOP = {"viewport": {"width": 1280, "height": 900}}
PHONE = {
    "viewport": {"width": 390, "height": 844},
    "device_scale_factor": 2,
    "has_touch": True,
    "is_mobile": True,
}
PATIENCE = 120_000  # [ms]


@contextmanager
def chromium(*flags):
    """Start a browser with more flags, or skip the test where there is none."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on this machine")
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with sync_api.sync_playwright() as playwright:
        arguments = ["--no-sandbox", *FAKE_CAMERA, *flags]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


def watch(page, address):
    """Collect requests to anyone but the address, and faults of the page's scripts, from now on."""
    strangers, faults = [], []
    ours = (address, "data:", "blob:")
    page.on("request", lambda request: request.url.startswith(ours) or strangers.append(request.url))
    page.on("pageerror", lambda error: faults.append(str(error)))
    return strangers, faults


class Visit:
    """One visit of the page; `strangers` are the requests to anyone but the server."""

    def __init__(self, browser, address, window):
        self.context = browser.new_context(permissions=["camera"], **window)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.strangers, self.faults = watch(self.page, address)
        self.page.goto(address)
        self.page.wait_for_selector("#view .message")

    def upload(self, path):
        if self.page.locator("[aria-label='Remove Image']").count():
            self.page.click("[aria-label='Remove Image']")
            self.page.wait_for_selector("#photo input[type=file]", state="attached")
        self.page.set_input_files("#photo input[type=file]", path)

    def forget_words(self):
        self.page.click("#words [title='Clear'], #words .token-remove.remove-all")

    def type_words(self, text):
        box = self.page.locator("#words input")
        box.click()
        box.fill(text)
        box.press("Enter")

    def wait_for_names(self, *names):
        """Wait until the legend holds just these names, in any order."""
        wanted = sorted(names)
        self.page.wait_for_function(
            "wanted => JSON.stringify([...document.querySelectorAll('#view .legend li')]"
            ".map(item => item.firstChild.textContent).sort()) === JSON.stringify(wanted)",
            arg=wanted,
        )

    def wait_for_answer(self, *parts):
        """Wait until the line below the picture holds all of these."""
        self.page.wait_for_function(
            "parts => parts.every(one => document.querySelector('#view .facts')?.textContent.includes(one))",
            arg=list(parts),
        )

    def error(self):
        self.page.wait_for_selector("#view .message.error")
        return self.page.inner_text("#view .message.error")

    def chips(self):
        return [chip.strip() for chip in self.page.locator("#words .token").all_inner_texts()]

    def point_at(self, across, down):
        """Where the pointer is on the picture, as shares of its sides; what the page says about it."""
        picture = self.page.locator("#view .regions")
        picture.scroll_into_view_if_needed()
        box = picture.bounding_box()
        at = box["x"] + across * box["width"], box["y"] + down * box["height"]
        if self.page.evaluate("navigator.maxTouchPoints"):
            self.page.touchscreen.tap(*at)
        else:
            self.page.mouse.move(*at)
        self.page.wait_for_selector("#view .tip", state="visible")
        return self.page.inner_text("#view .tip")

    def colours(self):
        """The colours of the overlay's pixels, and its opacity."""
        return self.page.evaluate(
            "(() => { const canvas = document.querySelector('#view .regions');"
            "const bytes = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data;"
            "const found = new Set(); for (let i = 0; i < bytes.length; i += 4)"
            "found.add(bytes.slice(i, i + 4).join(' '));"
            "return [[...found], canvas.style.opacity]; })()"
        )

    def close(self):
        assert not self.strangers
        assert not self.faults
        self.context.close()
