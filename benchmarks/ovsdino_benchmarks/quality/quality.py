"""``ovsdino-bench quality``: evaluate the forms of a model on data sets, and write result files."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ovsdino_benchmarks.datasets.benchmark_list import benchmarks
from ovsdino_benchmarks.datasets.dataset import Dataset, open_benchmark, open_folder
from ovsdino_benchmarks.datasets.protocol import (
    DINOTXT,
    OVSDINO,
    TALK2DINO,
    Protocol,
    find_protocol,
    for_benchmark,
    own_protocol,
)
from ovsdino_benchmarks.model_variants import talk2dino
from ovsdino_benchmarks.model_variants.models import Form, ModelSpec
from ovsdino_benchmarks.model_variants.zero_shot import ZERO_SHOT
from ovsdino_benchmarks.quality.evaluate import EvaluationRun, evaluate
from ovsdino_benchmarks.quality.gallery import draw_gallery
from ovsdino_benchmarks.results import results
from ovsdino_benchmarks.results.results import Quality, Report
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.out_folder import check_out
from ovsdino_runtime.base.photo_options import DEFAULT_PHOTO_OPTIONS, PhotoOptions
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle

Done = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class QualityRequest:
    """The model forms, data sets and protocol of an evaluation."""

    data: Path
    out: Path
    spec: ModelSpec
    forms: tuple[Form, ...] = ("onnx",)
    benchmarks: tuple[str, ...] = ()  # none: the folder itself
    classes: str | None = None  # of a folder: see `open_folder`
    ignore: int = 255
    reduce_zero_label: bool = False
    protocol: str | None = None  # None: the model's or the benchmark's own
    templates: str | None = None  # None: the protocol's
    threshold: float | None = None  # None: the protocol's
    changes: Mapping[str, object] = field(default_factory=dict)  # other fields of the protocol
    photo_options: PhotoOptions = DEFAULT_PHOTO_OPTIONS
    workers: int = 1
    gallery: int = 0


def run_quality(request: QualityRequest, say: Callable[[str], None]) -> list[Path]:
    """Evaluate every form on every data set; write one result file for each.

    Args:
        request: what to evaluate.
        say: called with lines of text about each protocol and result.

    Returns:
        The result files; none on torchrun ranks other than 0.

    Raises:
        OvsdinoError: data, model and protocol do not match; nothing has been computed.
    """
    check_out(request.out)
    if request.spec.sam is not None and set(request.forms) != {"torch"}:
        raise EngineError(f"--sam: got --form {', '.join(request.forms)}, expected --form torch and no other")
    datasets = [open_benchmark(name, request.data) for name in request.benchmarks] or [
        open_folder(
            request.data, request.classes, ignore=request.ignore, reduce_zero_label=request.reduce_zero_label
        )
    ]
    files = []
    for dataset in datasets:
        protocol = choose_protocol(request, dataset)
        for form in request.forms:
            spec = replace(request.spec, form=form)
            with _progress(f"{dataset.name}, {form}") as done:
                evaluated = evaluate(
                    spec,
                    protocol,
                    dataset,
                    out=request.out,
                    photo_options=request.photo_options,
                    workers=request.workers,
                    done=done,
                )
            if evaluated is None:
                continue
            result, counts = evaluated
            say(f"{protocol.describe()}\n{describe_quality(result)}")
            files.append(request.out / f"quality-{dataset.name}-{result.model}-{spec.label}.json")
            results.save(Report(quality=(result,)), files[-1])
            np.savez_compressed(
                request.out / result.confusion, confusion=counts.confusion, boundary=counts.boundary
            )
            if request.gallery:
                run = EvaluationRun(
                    spec=spec,
                    protocol=protocol,
                    dataset=dataset,
                    folder=request.out,
                    photo_options=request.photo_options,
                )
                draw_gallery(run, request.gallery, request.out / "gallery")
    return files


def choose_protocol(request: QualityRequest, dataset: Dataset) -> Protocol:
    """Return the requested protocol, else the default one, with the requested changes."""
    if request.protocol == "model":
        chosen = own_protocol(load_bundle(find_bundle(request.spec.model)).manifest)
    elif request.protocol is not None:
        chosen = find_protocol(request.protocol)
    else:
        chosen = _usual_protocol(request, dataset)
    chosen = for_benchmark(chosen, dataset.name) if dataset.name in request.benchmarks else chosen
    changes = {key: value for key, value in request.changes.items() if value is not None}
    return replace(
        chosen,
        templates=request.templates or chosen.templates,
        threshold=chosen.threshold if request.threshold is None else request.threshold,
        **changes,  # type: ignore[arg-type]
    )


def _usual_protocol(request: QualityRequest, dataset: Dataset) -> Protocol:
    """Return the default: a published model's own protocol, else the benchmark's, else the bundle's."""
    if request.spec.model in ZERO_SHOT and request.forms == ("torch",):
        return DINOTXT
    if request.spec.model in talk2dino.MODELS:
        return TALK2DINO
    if dataset.name in request.benchmarks:
        return benchmarks()[dataset.name].protocol
    manifest = load_bundle(find_bundle(request.spec.model)).manifest
    return OVSDINO if manifest.dinov3seg is None else own_protocol(manifest)


def describe_quality(result: Quality) -> str:
    """Return a result in one line."""
    return (
        f"{result.data} ({result.photos} photos, {result.extent}), {result.model}, "
        f"{result.form}: mIoU {100 * result.miou:.2f} (mmseg's rule {100 * result.miou_all:.2f}), "
        f"boundary mIoU {100 * result.boundary_miou:.2f}, pixel accuracy {100 * result.pixel_accuracy:.2f}"
    )


@contextmanager
def _progress(title: str) -> Iterator[Done]:
    from ovsdino_runtime.base.progress import open_progress

    with open_progress() as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
