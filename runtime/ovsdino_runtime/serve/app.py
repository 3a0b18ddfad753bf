"""The HTTP application: its paths, forms and responses."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any

from fastapi import Depends, FastAPI, File, Form, Request, Response, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.security import HTTPBearer
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.middleware.cors import CORSMiddleware

from ovsdino_runtime.base.errors import (
    ClassesError,
    NotAPhotoError,
    OptionError,
    OvsdinoError,
    PhotoError,
    TooLargeError,
)
from ovsdino_runtime.base.photo_options import PhotoOptions, parse_bands, parse_bits
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.base.version import version
from ovsdino_runtime.serve.access import Access, AccessOptions
from ovsdino_runtime.serve.label_studio import LabelStudioOptions, add_label_studio
from ovsdino_runtime.serve.pages import add_pages
from ovsdino_runtime.serve.request_limits import RequestLimiter, refusal
from ovsdino_runtime.serve.responses import WRITERS, Format, Problem, SegmentationBody
from ovsdino_runtime.serve.service import BusyError, LateError, SegmentRequest, Service
from ovsdino_runtime.serve.upload import check_count, check_length
from ovsdino_runtime.text.class_lists import choose_classes, parse_background
from ovsdino_runtime.text.vocabulary import Vocabulary

NO_ACCESS = AccessOptions()
PATH = "/segment"
CLIENT_GONE = 499  # nginx's status of a request whose client closed the connection
MAX_TEXT, MAX_NAME, MAX_URL = 200_000, 40, 2000  # characters of a field, before anything else reads it
STATUS: dict[type[OvsdinoError], int] = {  # the first that fits
    TooLargeError: 413,
    NotAPhotoError: 415,
    PhotoError: 422,
    ClassesError: 422,
    OptionError: 422,
    BusyError: 429,
    LateError: 503,
}
PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The form is broken."},
    408: {"model": Problem, "description": "The request did not arrive in time."},
    413: {"model": Problem, "description": "The photo has too many bytes or pixels."},
    415: {"model": Problem, "description": "Not a form, or not a photo."},
    422: {"model": Problem, "description": "The photo is broken, or the words are not good."},
    429: {"model": Problem, "description": "Too many requests wait already."},
    500: {"model": Problem, "description": "A fault of the server."},
    503: {"model": Problem, "description": "Stopping, or not done in time."},
}
PNG_ANSWER = {
    "description": "A PNG of the labels (indexed, 16-bit grey above 256 classes) or of the overlay; or JSON.",
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


def _text_field(limit: int, description: str, example: str = "") -> Any:  # noqa: ANN401 - FastAPI's own type
    """Describe a form field of at most ``limit`` characters; /docs fills in the example."""
    return Form(max_length=limit, description=description, json_schema_extra={"example": example})


Bands = Annotated[
    str | None,
    _text_field(
        MAX_NAME, "Of a TIFF: which bands are red, green and blue, such as '3,2,1', or which is grey."
    ),
]
Bits = Annotated[str | None, _text_field(MAX_NAME, "Bits that each value of a 16-bit photo uses.")]
Strict = Annotated[bool, Form(description="Refuse a JPEG without its last bytes.")]
PhotoFile = Annotated[UploadFile, File(description="JPEG, PNG, WebP, TIFF, ...")]
Url = Annotated[
    str | None,
    _text_field(MAX_URL, "Address of the photo, in place of `photo`; where the server allows it."),
]
ClassWords = Annotated[
    str | None,
    _text_field(
        MAX_TEXT,
        "Words such as 'cat, car|automobile, sky', or a JSON array; or give a vocabulary.",
        "road, car, building, sky",
    ),
]
VocabularyName = Annotated[str | None, _text_field(MAX_NAME, "A packaged vocabulary, such as ade150.")]
BackgroundText = Annotated[
    str | None,
    _text_field(MAX_NAME, "'none', or a confidence in 0..1 below which a pixel is background."),
]
BackgroundWords = Annotated[
    str | None,
    _text_field(MAX_TEXT, "Classes that count as background: words, or a vocabulary such as surroundings."),
]
AnswerFormat = Annotated[
    Format,
    Form(
        description="png: a label each pixel; overlay: a picture to look at; rle: JSON with each "
        "region's mask in COCO's run lengths; base64: JSON with both PNGs."
    ),
]


def make_app(
    service: Service,
    access: AccessOptions = NO_ACCESS,
    *,
    metrics: bool = True,
    label_studio: LabelStudioOptions | None = None,
) -> FastAPI:
    """Build the application of a service.

    Args:
        service: answers the requests.
        access: which requests are answered.
        metrics: whether to serve ``GET /metrics``.
        label_studio: the Label Studio to serve as its backend; None: none.
    """

    @asynccontextmanager
    async def closing(_app: FastAPI) -> AsyncIterator[None]:
        yield
        service.close()

    app = FastAPI(
        title="ovsdino",
        version=version(),
        description="Segment photos into classes that you name.",
        docs_url=None,  # `add_pages` adds one that loads nothing from another host
        redoc_url=None,
        lifespan=closing,
    )
    app.state.service = service
    app.add_middleware(RequestLimiter, path=PATH, service=service)
    if label_studio is not None:
        add_label_studio(app, service, label_studio)
    app.add_middleware(Access, options=access)
    if access.origins:  # around the others: their refusals can be read as well
        app.add_middleware(
            CORSMiddleware,
            allow_origins=access.origins,
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key"],
            expose_headers=["Server-Timing", "Retry-After"],
        )
    app.add_exception_handler(StarletteHTTPException, _http_problem)
    app.add_exception_handler(RequestValidationError, _form_problem)
    app.add_exception_handler(OvsdinoError, _ovsdino_problem)
    app.add_exception_handler(Exception, _fault)
    app.add_api_route("/healthz", _healthz, methods=["GET"], responses={503: {"description": "Stopping."}})
    add_pages(app, service, path=PATH)
    if metrics:
        app.add_api_route("/metrics", _metrics, methods=["GET"], response_class=Response)
    app.add_api_route(
        PATH,
        _segment,
        methods=["POST"],
        response_model=SegmentationBody,
        responses={200: PNG_ANSWER, **PROBLEMS},
        summary="Segment a photo",
        dependencies=[Depends(HTTPBearer(auto_error=False))]
        if access.keys
        else None,  # described, not checked
    )
    return app


def _read_photo_options(bands: Bands = None, bits: Bits = None, strict: Strict = False) -> PhotoOptions:
    """Read how the photo is to be decoded.

    Raises:
        OptionError: a field has a value that it cannot have.
    """
    return PhotoOptions(
        bands=None if bands is None else parse_bands(bands),
        bits=None if bits is None else parse_bits(bits),
        strict=strict,
    )


async def _segment(  # noqa: PLR0913 - one argument for each field
    request: Request,
    photo_options: Annotated[PhotoOptions, Depends(_read_photo_options)],
    # None where it was not sent; written so that OpenAPI describes a file, not "a file or null"
    *,
    photo: PhotoFile = None,  # type: ignore[assignment]
    url: Url = None,
    classes: ClassWords = None,
    vocabulary: VocabularyName = None,
    background: BackgroundText = None,
    background_classes: BackgroundWords = None,
    format: AnswerFormat = "png",  # noqa: A002
) -> Response:
    """Segment a photo into the given classes."""
    service: Service = request.app.state.service
    limits = service.options.limits
    for text in (classes, background_classes):
        check_length(text, limits)
    await _refuse_repeated(request)
    threshold = parse_background(background)

    def choose() -> Vocabulary:
        chosen = choose_classes(
            classes, vocabulary, background=threshold, background_classes=background_classes, files=False
        )
        return check_count(chosen, limits)

    if (photo is None) == (url is None):
        raise PhotoError("give either a photo, as the field `photo`, or its address, as `url`")
    if url is not None and service.options.remote is None:
        raise PhotoError("this server reads no addresses; send the file as the field `photo`")
    file = await photo.read() if photo is not None else str(url)
    segment_request = SegmentRequest(
        photo=file,
        choose=choose,
        background=threshold,
        scores=format in ("rle", "base64"),
        photo_options=photo_options,
    )
    write, kind = WRITERS[format]

    def answer(segmentation: Segmentation) -> Response:
        stages = ", ".join(f"{stage};dur={ms:g}" for stage, ms in segmentation.timings.items())
        return Response(write(segmentation), media_type=kind, headers={"Server-Timing": stages})

    seconds = request.scope["deadline"] - time.monotonic()
    return await _until_gone(request, service.answer(segment_request, answer, seconds=seconds))


async def _until_gone(request: Request, answering: Coroutine[Any, Any, Response]) -> Response:
    """Wait for an answer; stop the work when the client has closed the connection."""
    work = asyncio.ensure_future(answering)
    gone = asyncio.ensure_future(_wait_until_gone(request))
    try:
        await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            return work.result()
        return Response(status_code=CLIENT_GONE)  # nobody reads it; the metrics count it
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _wait_until_gone(request: Request) -> None:
    """Return when the client closes the connection; the request has been read by then."""
    with suppress(StarletteHTTPException):  # the deadline, which the answer also keeps
        while (await request.receive())["type"] != "http.disconnect":
            pass
        return
    await asyncio.Event().wait()


async def _refuse_repeated(request: Request) -> None:
    """Reject a form that repeats a field: it is unknown which value was meant.

    Raises:
        ClassesError: a field occurs more than once.
    """
    fields = Counter(name for name, _ in (await request.form()).multi_items())
    if repeated := sorted(name for name, count in fields.items() if count > 1):
        raise ClassesError(f"field {repeated[0][:40]!r} occurs {fields[repeated[0]]} times; send it once")


async def _healthz(request: Request) -> Response:
    """Tell whether the server accepts requests."""
    service: Service = request.app.state.service
    if service.stopping:
        return refusal(503, "stopping")
    from starlette.responses import JSONResponse

    segmenter = service.segmenter
    return JSONResponse(
        {"status": "ok", "model": segmenter.bundle.manifest.name, "engine": segmenter.vision.description}
    )


async def _metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' format."""
    metrics = request.app.state.service.metrics
    return Response(metrics.text(), media_type=metrics.content_type)


async def _http_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)
    answer = refusal(error.status_code, str(error.detail))
    answer.headers.update(error.headers or {})
    return answer


async def _form_problem(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(map(str, first["loc"][1:]))
    return refusal(422, f"{field}: {first['msg']}")


async def _ovsdino_problem(_request: Request, error: Exception) -> Response:
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    if status == 500:
        return await _fault(_request, error)
    return refusal(status, " ".join(str(error).split()))


async def _fault(_request: Request, _error: Exception) -> Response:
    """Report an internal error without details, which the server's log holds."""
    return refusal(500, "a fault of the server; its log says more")
