"""The exported page in a real browser, opened from the disk or from a static host."""

import functools
import threading
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from tests.demo.browser import watch

PATIENCE = 240_000  # [ms]
ISOLATED = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}


class _Handler(SimpleHTTPRequestHandler):
    """Serves files with headers that let pages share memory between threads."""

    def end_headers(self):
        for name, value in ISOLATED.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, *_):
        pass


@contextmanager
def static_host(folder):
    """Serve a folder; its address."""
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Visit:
    """One visit of the page; `strangers` are the requests to anything but the page's own files."""

    def __init__(self, browser, address, **window):
        self.context = browser.new_context(**window)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE)
        self.strangers, self.faults = watch(self.page, address)
        self.page.goto(f"{address}/index.html")

    def segment(self, photo, classes=None):
        """Choose a photo and classes; the line below the picture when it is done."""
        if classes is not None:
            self.page.fill("#classes", classes)
        self.begin()
        self.page.set_input_files("#file", photo)
        return self.wait()

    def begin(self):
        """Forget the last answer."""
        self.page.evaluate("showState('')")

    def wait(self):
        """Wait for an answer or an error; its line."""
        self.page.wait_for_selector("#message.done, #message.error")
        return self.page.inner_text("#message")

    def labels(self):
        """The labels on the page. Shape: (H, W)."""
        height, width = self.page.evaluate("[shown.photo.height, shown.photo.width]")
        text = self.page.evaluate("Array.from(shown.labels, (label) => String.fromCharCode(label)).join('')")
        return np.array([ord(label) for label in text], np.uint16).reshape(height, width)

    def legend(self):
        """The names and shares of the legend."""
        items = self.page.locator("#legend button")
        return [tuple(item.split("\n")) for item in items.all_inner_texts()]

    def close(self):
        assert not self.strangers
        assert not self.faults
        self.context.close()
