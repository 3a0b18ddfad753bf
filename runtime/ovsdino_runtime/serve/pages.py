"""The server's pages for browsers: a short description at ``/`` and Swagger UI at ``/docs``.

Swagger UI's files come from the package fastapi-offline; nothing is loaded from another host.
"""

import html
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.openapi.docs import get_swagger_ui_html
from pydantic import BaseModel
from starlette.responses import FileResponse, HTMLResponse, JSONResponse

from ovsdino_runtime.base.version import version
from ovsdino_runtime.serve.service import Service

DOCS, OPENAPI = "/docs", "/openapi.json"
ASSETS = ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png")
POLICY = "; ".join(  # Swagger UI needs an inline script and inline styles
    (
        "default-src 'none'",
        "connect-src 'self'",
        "img-src 'self' data: blob:",
        "script-src 'self' 'unsafe-inline'",
        "style-src 'self' 'unsafe-inline'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {"Content-Security-Policy": POLICY, "Referrer-Policy": "no-referrer"}
WELCOME = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>ovsdino</title>
<style>
body {{ max-width: 44rem; margin: 3rem auto; padding: 0 1rem; font: 1rem/1.6 system-ui, sans-serif; }}
pre {{ overflow-x: auto; padding: 1rem; font-size: 0.875rem; color: #18181b; background: #f4f4f5; }}
</style>
<h1>ovsdino</h1>
<p>This server segments photos into classes that you name. Model: <b>{model}</b>, {program}.</p>
<pre>curl -F photo=@photo.jpg -F "classes=road, car, sky" -F format=overlay \\
  {address}{path} -o overlay.png</pre>
<ul>
<li><a href="{root}{docs}">{docs}</a>: try it here, with every field explained</li>
<li><a href="{root}{description}">{description}</a>: the same for programs (OpenAPI)</li>
<li><a href="{root}{health}">{health}</a>: whether requests are accepted</li>
</ul>
</html>
"""


class About(BaseModel):
    """Description of a server."""

    program: str
    model: str
    label_a_photo: str
    docs: str
    description: str
    health: str


def add_pages(app: FastAPI, service: Service, *, path: str) -> None:
    """Add ``/`` and ``/docs`` to an application whose route ``path`` segments photos."""

    async def welcome(request: Request) -> Response:
        """Describe this server: a page for browsers, JSON for programs."""
        about = About(
            program=f"ovsdino {version()}",
            model=service.segmenter.bundle.manifest.name,
            label_a_photo=f"POST {path}: a form with `photo` and `classes`",
            docs=DOCS,
            description=OPENAPI,
            health="/healthz",
        )
        if "text/html" not in request.headers.get("accept", ""):
            return JSONResponse(about.model_dump())
        root = request.scope.get("root_path", "")
        address = str(request.base_url).rstrip("/")
        given = {**about.model_dump(), "path": path, "address": address, "root": root}
        escaped = {key: html.escape(str(value)) for key, value in given.items()}
        return HTMLResponse(WELCOME.format(**escaped), headers=HEADERS)

    async def docs(request: Request) -> HTMLResponse:
        root = request.scope.get("root_path", "")
        answer = get_swagger_ui_html(
            openapi_url=root + OPENAPI,
            title="ovsdino",
            swagger_js_url=f"{root}{DOCS}/{ASSETS[0]}",
            swagger_css_url=f"{root}{DOCS}/{ASSETS[1]}",
            swagger_favicon_url=f"{root}{DOCS}/{ASSETS[2]}",
            swagger_ui_parameters={
                "validatorUrl": None
            },  # otherwise Swagger UI sends the schema to Swagger's validator
        )
        answer.headers.update(HEADERS)
        return answer

    app.add_api_route(
        "/",
        welcome,
        methods=["GET"],
        summary="Say what this is",
        response_model=About,
        responses={200: {"content": {"text/html": {"schema": {"type": "string"}}}}},
    )
    app.add_api_route(DOCS, docs, methods=["GET"], include_in_schema=False)
    for name in ASSETS:
        app.add_api_route(f"{DOCS}/{name}", _asset(name), methods=["GET"], include_in_schema=False)


def _asset(name: str) -> Any:  # noqa: ANN401 - a route's function
    """Return a route that serves a file of Swagger UI."""

    async def asset() -> FileResponse:
        import fastapi_offline

        return FileResponse(Path(fastapi_offline.__file__).parent / "static" / name)

    return asset
