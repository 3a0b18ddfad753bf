"""Limit what all uploads to the page may hold together: each of them alone has a limit of Gradio's."""

from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

TOTAL = 1_000_000_000  # [bytes] of all uploads that are kept, with those that are arriving
PATH = "/gradio_api/upload"


class UploadLimit:
    """ASGI middleware that rejects an upload with 413 while too many bytes are kept.

    Gradio deletes uploads after a while, so the same upload succeeds later.

    Args:
        app: the page.
        folder: where Gradio keeps uploads.
        total: most bytes of all of them.
    """

    def __init__(self, app: ASGIApp, folder: Path, total: int = TOTAL) -> None:
        self._app = app
        self._folder = folder
        self._total = total
        self._arriving = 0  # [bytes] of uploads that are being received

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or reject it."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith(PATH):
            await self._app(scope, receive, send)
            return
        length = Headers(scope=scope).get("content-length", "")
        if not length.isdecimal():
            answer = JSONResponse({"error": "the upload does not say its length"}, 411)
        elif self._kept() + self._arriving + int(length) > self._total:
            error = f"all uploads together may have {self._total / 1e6:g} megabytes; try again in an hour"
            answer = JSONResponse({"error": error}, 413, {"Connection": "close"})
        else:
            self._arriving += int(length)
            try:
                await self._app(scope, receive, send)
            finally:
                self._arriving -= int(length)
            return
        await answer(scope, receive, send)

    def _kept(self) -> int:
        """Count the bytes of the uploads that are kept; one may vanish meanwhile."""
        sizes = 0
        for file in self._folder.rglob("*"):
            try:
                sizes += file.lstat().st_size
            except OSError:  # noqa: PERF203 - one that is gone must not end the count
                continue
        return sizes
