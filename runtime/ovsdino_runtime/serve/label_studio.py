"""A machine learning backend of Label Studio: it asks for predictions, and the server fetches its pictures.

Source: Label Studio, "Write your own ML backend"; the protocol is HTTP with JSON.
"""

import base64
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode, urlsplit

from fastapi import FastAPI, Request
from pydantic import BaseModel, Field

from ovsdino_runtime.base.errors import ClassesError, OptionError, OvsdinoError, PhotoError
from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.integrations.label_studio import as_prediction, predict_regions
from ovsdino_runtime.integrations.labeling_config import Control, read_labeling_config
from ovsdino_runtime.serve.remote_photo import PORTS, RemoteOptions, TrustedHost, UnreachableError
from ovsdino_runtime.serve.request_limits import JSON, RequestLimiter
from ovsdino_runtime.serve.responses import Problem
from ovsdino_runtime.serve.service import SegmentRequest, Service
from ovsdino_runtime.serve.upload import check_count
from ovsdino_runtime.text.class_lists import choose_classes
from ovsdino_runtime.text.vocabulary import Vocabulary

SETUP, PREDICT = "/setup", "/predict"
BACKGROUND = "surroundings"  # what is none of the labels gets none
CLOUD = ("s3:", "gs:", "azure-blob:")
MAX_TASKS = 1000
JWT_DOTS = 2  # between the three parts of a JSON web token
log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LabelStudioOptions:
    """The Label Studio that may ask for predictions.

    Args:
        address: its address, to fetch uploaded pictures from. It may be local.
        token: access token for its pictures; "" for none. It is sent to this address alone.

    Raises:
        OptionError: the address is none, or the token is of a kind that cannot be used.
    """

    address: str
    token: str = ""

    def __post_init__(self) -> None:
        parts = urlsplit(self.address)
        if parts.scheme not in PORTS or not parts.hostname or parts.username is not None:
            raise OptionError(f"Label Studio's address is {self.address!r}: expected http://HOST[:PORT]")
        if self.token.count(".") == JWT_DOTS:
            raise OptionError(
                "the token is a personal access token, which must be renewed every few minutes; take the "
                "legacy token of the account page, which an organization's settings allow"
            )

    @property
    def host(self) -> TrustedHost:
        """The host, with the token."""
        return TrustedHost(self.address, {"Authorization": f"Token {self.token}"} if self.token else {})

    def locate(self, task: "Task", field: str) -> str:
        """Return the address of a task's picture.

        Raises:
            PhotoError: the task has no picture in the field.
        """
        value = task.data.get(field)
        if not isinstance(value, str) or not value:
            raise PhotoError(f"task {task.id}: no address of a picture in {field[:40]!r}")
        root = self.address.rstrip("/")
        if value.startswith(CLOUD):  # Label Studio redirects to a signed address
            name = base64.urlsafe_b64encode(value.encode()).decode()
            return f"{root}/tasks/{task.id}/presign/?{urlencode({'fileuri': name})}"
        if value.startswith(("upload/", "/upload/")):
            value = f"/data/{value.lstrip('/')}"
        return root + value if value.startswith("/") else value


class Task(BaseModel):
    """A task of Label Studio."""

    id: int | None = None
    data: dict[str, Any]


class PredictBody(BaseModel):
    """A request for predictions; other fields are ignored, such as a host name and a token."""

    tasks: Annotated[list[Task], Field(max_length=MAX_TASKS)]
    label_config: str


class SetupBody(BaseModel):
    """A labelling interface to check."""

    schema_: Annotated[str, Field(alias="schema")]


def add_label_studio(app: FastAPI, service: Service, options: LabelStudioOptions) -> None:
    """Add the routes of a backend to an application, and limits to its requests."""
    manifest, digest = service.segmenter.bundle.manifest, service.segmenter.bundle.digest
    version = f"{manifest.name}-{digest[:12]}"

    async def health() -> dict[str, str]:
        """Tell Label Studio that the backend is there."""
        return {"status": "UP", "model_class": "ovsdino"}

    async def setup(body: SetupBody) -> dict[str, str]:
        """Check a labelling interface."""
        for control in read_labeling_config(body.schema_):
            _choose(control, service)
        return {"model_version": version}

    async def predict(body: PredictBody, request: Request) -> dict[str, Any]:
        """Predict the labels of tasks, one prediction each."""
        controls = read_labeling_config(body.label_config)
        results: list[dict[str, Any]] = []
        errors: list[OvsdinoError] = []
        for task in body.tasks:
            if await request.is_disconnected():
                break
            try:
                regions = await _predict(task, controls, service=service, options=options)
                results.append(as_prediction(regions, version))
            except PhotoError as error:
                errors.append(error)
                log.warning("Label Studio's task %s: %s", task.id, error)
                results.append({**as_prediction([], version), "error": str(error)})
        if errors and len(errors) == len(results):
            raise errors[0]
        return {"results": results, "model_version": version}

    async def webhook() -> dict[str, str]:
        """Accept Label Studio's notices of annotations: this model is not trained by them."""
        return {"status": "ignored"}

    for path in (SETUP, PREDICT):
        app.add_middleware(RequestLimiter, path=path, service=service, kind=JSON)
    problem: dict[int | str, dict[str, Any]] = {422: {"model": Problem}}
    app.add_api_route("/health", health, methods=["GET"])
    app.add_api_route(SETUP, setup, methods=["POST"], responses=problem)
    app.add_api_route(PREDICT, predict, methods=["POST"], responses=problem)
    app.add_api_route("/webhook", webhook, methods=["POST"])


async def _predict(
    task: Task, controls: Sequence[Control], *, service: Service, options: LabelStudioOptions
) -> list[dict[str, Any]]:
    remote = _remote(service, options)
    regions: list[dict[str, Any]] = []
    for control in controls:

        def write(segmentation: Segmentation, control: Control = control) -> list[dict[str, Any]]:
            return list(predict_regions(segmentation, control))

        request = SegmentRequest(
            photo=options.locate(task, control.field),
            choose=partial(_choose, control, service),
            background=None,
            scores=True,
            remote=remote,
        )
        try:
            regions += await service.answer(request, write, seconds=service.options.seconds)
        except UnreachableError as error:
            more = "" if service.options.remote else "; --allow-url lets the server read public addresses"
            raise PhotoError(f"task {task.id}: {error}{more}") from error
    return regions


def _remote(service: Service, options: LabelStudioOptions) -> RemoteOptions:
    """Return how pictures are fetched: from Label Studio, and from public hosts where those are allowed."""
    public = service.options.remote
    if public is None:
        return RemoteOptions(allowed=lambda _: False, trusted=options.host)
    return RemoteOptions(
        seconds=public.seconds, redirects=public.redirects, allowed=public.allowed, trusted=options.host
    )


def _choose(control: Control, service: Service) -> Vocabulary:
    """Parse the labels of a tag as classes.

    Raises:
        ClassesError: they do not form a valid vocabulary, or are too many.
    """
    classes: list[Sequence[str]] = list(control.labels.values())
    try:
        vocabulary = choose_classes(classes, background_classes=BACKGROUND, files=False)
    except ClassesError as error:
        raise ClassesError(f"{control.name}: {error}") from error
    return check_count(vocabulary, service.options.limits)
