"""Serve the demo page: by default only to this machine. The browser loads nothing from other hosts."""

import os
import re
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import gradio as gr
import uvicorn
from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ovsdino_runtime.base.errors import OptionError, OutputError
from ovsdino_runtime.demo.page import build_page, read_asset
from ovsdino_runtime.demo.responses import LIMITS, Responder
from ovsdino_runtime.demo.upload_limit import UploadLimit

LOOPBACK = ("127.0.0.1", "localhost")
SESSIONS = 64  # whose state Gradio keeps
PATIENCE = 2  # [s] for responses in flight when the server stops
SELF = "'self'"
POLICY = "; ".join(  # Gradio's frontend has inline scripts and compiles its templates
    (
        f"default-src {SELF} data: blob:",
        f"script-src {SELF} 'unsafe-inline' 'unsafe-eval' blob:",
        f"style-src {SELF} 'unsafe-inline'",
        "object-src 'none'",
        f"frame-ancestors {SELF}",
    )
)


class Headers:
    """ASGI middleware: headers that forbid the browser to load from other hosts and to send a referrer."""

    def __init__(self, app: ASGIApp, embed_in: str | None = None) -> None:
        self._app = app
        self._policy = f"{POLICY} {embed_in}" if embed_in else POLICY  # its last part: who may frame the page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and add the headers to its response."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["content-security-policy"] = self._policy
                headers["referrer-policy"] = "no-referrer"
            await send(message)

        await self._app(scope, receive, send_with_headers)


def serve(
    responder: Responder,
    *,
    host: str,
    port: int,
    ready: Callable[[str], object],
    embed_in: str | None = None,
) -> None:
    """Serve the page until Ctrl-C. Call it inside `telemetry_off.private_files`.

    Args:
        responder: answers the page's requests.
        host: address to listen on.
        port: port to listen on; 0 chooses a free one.
        ready: called with the page's address once it is served.
        embed_in: a site that may show the page in a frame, such as "https://example.org"; None allows none.

    Raises:
        OutputError: the server cannot listen on the address.
        OptionError: the site is none.
    """
    if embed_in is not None and not re.fullmatch(r"https?://[\w.:-]+", embed_in):
        raise OptionError(f"site {embed_in!r} is none; expected SCHEME://HOST[:PORT] without a path")
    with _listen(host, port) as listener:
        app = build_app(responder, host=host, embed_in=embed_in)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=PATIENCE)
        with suppress(KeyboardInterrupt):  # it has been stopped in order by then
            uvicorn.Server(config).run(sockets=[listener])


def build_app(responder: Responder, *, host: str = LOOPBACK[0], embed_in: str | None = None) -> FastAPI:
    """Build the application that serves the page."""
    page = build_page(responder)
    page.state_session_capacity = SESSIONS
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(UploadLimit, folder=Path(gr.utils.get_upload_folder()))
    app.add_middleware(Headers, embed_in=embed_in)
    if host in LOOPBACK:  # no other site's name may point here
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    gr.mount_gradio_app(
        app,
        page,
        "/",
        footer_links=[],
        run_history=False,
        show_error=False,
        max_file_size=f"{LIMITS.megabytes:g}mb",
        ssr_mode=False,
        theme=_theme(),
        css=read_asset("page.css"),
    )
    page.has_launched = page.is_running = True  # as `launch` does: only then is a path that is sent checked
    return app


def _theme() -> gr.Theme:
    """Return a theme with the machine's own fonts and readable greys."""
    theme = gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])
    return theme.set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_400",
    )


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (
            os.strerror(error.errno) if error.errno and error.errno > 0 else error
        )  # not Python's own words
        raise OutputError(f"{host} port {port}: cannot be opened: {reason}; try another --port") from error
