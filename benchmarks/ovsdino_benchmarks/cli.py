"""The commands ``ovsdino-bench`` and ``ovsdino evaluate``. Only click is imported before they run."""

import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from ovsdino_runtime.base.cli_errors import UserError, user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand, version_option
from ovsdino_runtime.base.cli_photo_options import with_photo_options

PATH = click.Path(path_type=Path)
FORMS = click.Choice(["onnx", "torch"])
PRECISIONS = click.Choice(["fp32", "fp16", "int8"])
KERNELS = ("depthwise_block", "preservation_gate", "upsample_argmax")
DTYPES = ("fp32", "fp16", "bf16")
GPU_ENGINES = ("onnxruntime", "tensorrt", "tensorrt-rtx")
QUALITY_GROUPS = {
    "Protocol": ("protocol", "average", "align_corners", "words", "patches", "background_cleaning", "pamr")
}
QUALITY_EXAMPLES = (
    "ovsdino evaluate --data FOLDER",
    "ovsdino evaluate --data VOCdevkit --benchmark voc21 --model my.ovs",
    "ovsdino evaluate --data FOLDER --vocabulary voc21 --workers 2",
)


def _read_sizes(_context: click.Context, _option: click.Parameter, value: str) -> tuple[tuple[int, int], ...]:
    matches = [re.fullmatch(r"\s*([1-9]\d*)x([1-9]\d*)\s*", size) for size in value.split(",")]
    sizes = tuple((int(match[1]), int(match[2])) for match in matches if match)
    if len(sizes) < len(matches):
        raise click.BadParameter(f"{value!r} is not like 640x480,1920x1080")
    return sizes


def _read_counts(_context: click.Context, _option: click.Parameter, value: str) -> tuple[int, ...]:
    if not all(re.fullmatch(r"\s*[1-9]\d*\s*", count) for count in value.split(",")):
        raise click.BadParameter(f"{value!r} is not like 10,100,1000")
    return tuple(int(count) for count in value.split(","))


def _read_share(_context: click.Context, _option: click.Parameter, value: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?%?", value):
        raise click.BadParameter(f"{value!r} is not like 5% or 0.05")
    return float(value.removesuffix("%")) / (100 if value.endswith("%") else 1)


def form_names(forms: Sequence[str], precisions: Sequence[str]) -> tuple[str, ...]:
    """Combine forms and precisions: ``torch``, ``onnx``, ``onnx-fp16`` or ``onnx-int8``.

    Raises:
        UserError: a precision is requested for the torch form only, which always runs in FP32.
    """
    forms_and_precisions: list[str] = []
    if set(forms) == {"torch"} and set(precisions) != {"fp32"}:
        raise UserError(f"--precision {' '.join(precisions)}: --form torch runs in fp32; leave it out")
    for form in forms:
        names = ["torch"] if form == "torch" else [f"onnx-{p}".removesuffix("-fp32") for p in precisions]
        forms_and_precisions += names
    return tuple(dict.fromkeys(forms_and_precisions))


@click.group(context_settings=CONTEXT)
@version_option("ovsdino-bench")
def bench() -> None:
    """Measure speed and quality, and compare results."""


@bench.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=QUALITY_EXAMPLES,
    groups=QUALITY_GROUPS,
)
@click.option(
    "--data", required=True, type=PATH, help="A benchmark's folder, or one with images/ and labels/."
)
@click.option(
    "--benchmark", "benchmarks", multiple=True, help="voc21, ade20k, ...: read DATA as this benchmark."
)
@click.option(
    "--classes",
    metavar="TEXT|@FILE",
    help="Classes of a folder, in the order of its labels.  [default: @DATA/names.txt]",
)
@click.option("--vocabulary", metavar="NAME", help="Packaged classes of a folder; `ovsdino vocabularies`.")
@click.option("--ignore", default=255, show_default=True, help="Label value of a folder that is ignored.")
@click.option(
    "--reduce-zero-label", is_flag=True, help="Label value 0 of a folder is ignored, classes begin at 1."
)
@click.option("--model", default="nano", show_default=True, help="A packaged model, or the path of a bundle.")
@click.option(
    "--form",
    "forms",
    multiple=True,
    type=FORMS,
    default=["onnx"],
    show_default=True,
    help="The exported graphs, or the torch network.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=PRECISIONS,
    default=["fp32"],
    show_default=True,
    help="Of the exported graphs.",
)
@click.option("--checkpoint", type=PATH, help="Weights of the torch form.  [default: the packaged ones]")
@click.option("--sam", type=PATH, help="SAM's checkpoint: its features replace the encoder's; torch form.")
@click.option(
    "--protocol",
    help="ovsdino, talk2dino, dinov3seg, dinotxt or model.  [default: a published model's own, else the "
    "benchmark's, else the bundle's]",
)
@click.option(
    "--average",
    type=click.Choice(["logits", "probabilities"]),
    help="What is averaged where windows overlap.  [default: the protocol's]",
)
@click.option(
    "--align-corners/--no-align-corners",
    default=None,
    help="How a window's scores are enlarged.  [default: the protocol's]",
)
@click.option(
    "--words",
    type=click.Choice(["official", "first", "all"]),
    help="A class is its official name, the first word of our list, or the mean of all of its words.  "
    "[default: the protocol's]",
)
@click.option(
    "--patches",
    type=click.Choice(["head", "backbone"]),
    help="Of zero-shot dino.txt: the patches that meet text.  [default: head]",
)
@click.option(
    "--background-cleaning",
    type=click.FloatRange(min=0),
    metavar="WEIGHT",
    help="Of Talk2DINO's torch form: weight of its attention maps.  [default: the protocol's]",
)
@click.option(
    "--pamr",
    type=click.IntRange(min=0),
    metavar="ITERATIONS",
    help="Of Talk2DINO's torch form: refine masks with PAMR; the official number is 10.  [default: 0]",
)
@click.option("--templates", help="A packaged set, a phrase with {}, or model.  [default: the protocol's]")
@click.option("--background", type=click.FloatRange(0, 1), help="Threshold.  [default: the model's own]")
@with_photo_options
@click.option("--threads", type=click.IntRange(min=1), help="For each worker.  [default: its share of all]")
@click.option("--workers", type=click.IntRange(min=1), default=1, show_default=True, help="Processes.")
@click.option("--gallery", type=click.IntRange(min=0), default=0, help="Draw so many photos for the report.")
@click.option("--out", type=PATH, default="ovsdino-bench", show_default=True, help="Folder of results.")
def quality(**options: Any) -> None:  # noqa: ANN401 - click gives each its own type
    """Measure mIoU and Boundary IoU by a benchmark's protocol.

    Finished photos are recorded in OUT: the same command resumes a stopped run.
    """
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.model_variants.models import ModelSpec
        from ovsdino_benchmarks.quality.quality import QualityRequest, run_quality

        spec = ModelSpec(**{key: options.pop(key) for key in ("model", "checkpoint", "threads", "sam")})
        classes, vocabulary = options.pop("classes"), options.pop("vocabulary")
        if classes is not None and vocabulary is not None:
            raise UserError("--classes and --vocabulary both name the classes: leave one out")
        options["classes"] = vocabulary or classes
        options["forms"] = form_names(options["forms"], options.pop("precisions"))
        fields = ("average", "align_corners", "words", "patches", "background_cleaning", "pamr")
        changes = {key: options.pop(key) for key in fields}
        threshold = options.pop("background")
        request = QualityRequest(spec=spec, threshold=threshold, changes=changes, **options)
        for file in run_quality(request, click.echo):
            click.echo(f"-> {file}")


@bench.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino-bench latency",
        (
            "ovsdino-bench latency --model my.ovs --precision fp16 --class-counts 10,100,1000 --sizes "
            "640x480,1920x1080"
        ),
    ),
)
@click.option("--model", default="nano", show_default=True, help="A packaged model, or the path of a bundle.")
@click.option(
    "--form",
    type=FORMS,
    default="onnx",
    show_default=True,
    help="The exported graphs, or the torch network.",
)
@click.option(
    "--precision", type=PRECISIONS, default="fp32", show_default=True, help="Of the exported graphs."
)
@click.option("--checkpoint", type=PATH, help="Torch weights.  [default: the packaged ones, else random]")
@click.option(
    "--sizes",
    callback=_read_sizes,
    default="640x480",
    metavar="WxH,...",
    show_default=True,
    help="Of the photo.",
)
@click.option(
    "--class-counts",
    "classes",
    callback=_read_counts,
    default="171",
    metavar="N,...",
    show_default=True,
    help="Numbers of classes.",
)
@click.option("--templates", default="model", show_default=True, help="A packaged set, a phrase, or model.")
@click.option("--threads", type=click.IntRange(min=1), help="Of every way.  [default: all processors]")
@click.option("--repeats", type=click.IntRange(min=1), default=20, show_default=True)
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--photo", type=PATH, help="Content of the photo.  [default: the bundle's golden photo]")
@click.option("--compile/--no-compile", "compiled", help="Measure torch.compile too.")
@click.option("--baselines/--no-baselines", default=True, show_default=True, help="Measure the usual ways.")
@click.option("--engines/--no-engines", help="Measure the runtime on OpenVINO and in INT8 too.")
@click.option(
    "--new-processes",
    type=click.Choice(["all", "first", "none"]),
    default="all",
    show_default=True,
    help="Measure start and memory of each way in new processes: in all cases, or with the first size and "
    "number of classes only, which takes half the time.",
)
@click.option("--out", type=PATH, default="ovsdino-bench", show_default=True, help="Folder of results.")
def latency(**options: Any) -> None:  # noqa: ANN401 - click gives each its own type
    """Measure time and memory of each stage and end to end, and compare with baselines."""
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.latency.baselines import choose_baselines
        from ovsdino_benchmarks.latency.case import LatencyRequest
        from ovsdino_benchmarks.latency.latency import describe_latency, write_latency
        from ovsdino_benchmarks.model_variants.models import ModelSpec

        names = {key: options.pop(key) for key in ("model", "checkpoint", "threads")}
        (names["form"],) = form_names([options.pop("form")], [options.pop("precision")])
        ways = choose_baselines(
            options.pop("baselines"), compiled=options.pop("compiled"), engines=options.pop("engines")
        )
        out = options.pop("out")
        request = LatencyRequest(spec=ModelSpec(**names), baselines=ways, **options)
        file, measured = write_latency(request, out, lambda step: click.echo(step, err=True))
        click.echo("\n".join(map(describe_latency, measured)) + f"\n-> {file}")


@bench.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino-bench kernels --kernel upsample_argmax --class-counts 171",),
)
@click.option("--model", default="ovsdino-vitb14", show_default=True, help="The preset whose shapes to take.")
@click.option(
    "--kernel", "kernels", type=click.Choice(KERNELS), multiple=True, default=KERNELS, show_default=True
)
@click.option(
    "--dtype", "dtypes", type=click.Choice(DTYPES), multiple=True, default=DTYPES, show_default=True
)
@click.option("--batches", callback=_read_counts, default="1,4,16", metavar="N,...", show_default=True)
@click.option(
    "--class-counts",
    "classes",
    callback=_read_counts,
    default="20,171,1000",
    metavar="N,...",
    show_default=True,
    help="Numbers of classes.",
)
@click.option(
    "--sizes", callback=_read_sizes, default="640x480,1920x1080", metavar="WxH,...", show_default=True
)
@click.option("--repeats", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--warmup", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--compile/--no-compile", "compiled", default=True, help="Measure torch.compile too.")
@click.option("--out", type=PATH, default="ovsdino-bench/kernels", show_default=True, help="Folder.")
def kernels(out: Path, **options: Any) -> None:  # noqa: ANN401 - click gives each its own type
    """Measure the fused kernels on an NVIDIA GPU against torch and torch.compile, and write a report."""
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.kernels.bench import run_kernels
        from ovsdino_benchmarks.kernels.cases import KernelRequest
        from ovsdino_benchmarks.kernels.report import describe_kernel

        measured, files = run_kernels(KernelRequest(**options), out, lambda step: click.echo(step, err=True))
        click.echo("\n".join(map(describe_kernel, measured.results)))
        for file in files:
            click.echo(f"-> {file}")


@bench.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino-bench device --model my.ovs --engine tensorrt --precision fp16",),
)
@click.option(
    "--model",
    required=True,
    metavar="BUNDLE",
    help="One with kernels for this GPU: ovsdino-export --kernels sm_XX writes it.",
)
@click.option("--engine", type=click.Choice(GPU_ENGINES), default=GPU_ENGINES[0], show_default=True)
@click.option("--precision", type=click.Choice(DTYPES), default="fp32", show_default=True)
@click.option(
    "--sizes", callback=_read_sizes, default="640x480,1920x1080", metavar="WxH,...", show_default=True
)
@click.option(
    "--class-counts",
    "classes",
    callback=_read_counts,
    default="20,171,1000",
    metavar="N,...",
    show_default=True,
    help="Numbers of classes.",
)
@click.option("--repeats", type=click.IntRange(min=1), default=50, show_default=True)
@click.option("--warmup", type=click.IntRange(min=1), default=5, show_default=True)
@click.option("--out", type=PATH, default="ovsdino-bench/device", show_default=True, help="Folder.")
def device(out: Path, **options: Any) -> None:  # noqa: ANN401 - click gives each its own type
    """Measure the runtime on an NVIDIA GPU, from photo to labels, and write a report."""
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.latency.device import DeviceRequest, describe_device_report, run_device

        measured, files = run_device(DeviceRequest(**options), out, lambda step: click.echo(step, err=True))
        click.echo("\n".join(describe_device_report(measured)))
        for file in files:
            click.echo(f"-> {file}")


@bench.command(
    "serve",
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=('ovsdino-bench serve --photos photos --classes "cat, grass" --clients 8 --seconds 30',),
)
@click.option(
    "--url", default="http://127.0.0.1:8080", show_default=True, help="Of a running `ovsdino serve`."
)
@click.option("--seconds", type=click.FloatRange(min=1), default=60, show_default=True)
@click.option("--clients", type=click.IntRange(min=1), default=4, show_default=True)
@click.option("--photos", required=True, type=PATH, metavar="FOLDER", help="Sent in turns.")
@click.option(
    "--classes", multiple=True, required=True, metavar="TEXT", help="Several times: these lists in turns."
)
@click.option("--format", type=click.Choice(["png", "rle"]), default="png", show_default=True)
@click.option("--out", type=PATH, default="ovsdino-bench/serve", show_default=True, help="Folder.")
def load(photos: Path, out: Path, **options: Any) -> None:  # noqa: ANN401 - click gives each its own type
    """Load a server with concurrent clients, and report latency, throughput, errors and memory."""
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.load.load import LoadRequest, run_load
        from ovsdino_benchmarks.load.report import describe_load, write_load_report
        from ovsdino_runtime.base.photo_files import find_photos

        request = LoadRequest(photos=tuple(find_photos(photos)), **options)
        report = run_load(request, lambda step: click.echo(step, err=True))
        click.echo(describe_load(report))
        for file in write_load_report(report, out):
            click.echo(f"-> {file}")


@bench.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino-bench report ovsdino-bench --gallery",),
)
@click.argument("sources", nargs=-1, required=True, type=PATH, metavar="RESULTS...")
@click.option("--gallery", is_flag=True, help="Show the pictures of the results' folders.")
@click.option("--out", type=PATH, default="ovsdino-report", show_default=True)
def report(sources: tuple[Path, ...], gallery: bool, out: Path) -> None:
    """Combine result files, or folders of them, into report.json, report.md and report.html."""
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.reports.report import write_report

        for file in write_report(sources, out, gallery=gallery):
            click.echo(f"-> {file}")


@bench.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=("ovsdino-bench compare old/results.json new/results.json --max-slowdown 10%",),
)
@click.argument("old", type=PATH)
@click.argument("new", type=PATH)
@click.option(
    "--max-slowdown",
    callback=_read_share,
    default="5%",
    metavar="SHARE",
    show_default=True,
    help="Of a median.",
)
@click.option("--max-miou-drop", type=float, default=0.5, show_default=True, help="Points of 100.")
def compare(*, old: Path, new: Path, max_slowdown: float, max_miou_drop: float) -> None:
    """Compare the results NEW with OLD; exit with status 1 if a figure got worse by more than allowed."""
    with user_errors(extra="bench"):
        from ovsdino_benchmarks.results import results
        from ovsdino_benchmarks.results.compare import compare as compare_reports

        findings = compare_reports(
            results.load(old), results.load(new), max_slowdown=max_slowdown, max_miou_drop=max_miou_drop
        )
        click.echo("\n".join(finding.line() for finding in findings))
        sys.exit(any(finding.regressed for finding in findings))


evaluate = GroupedCommand(
    "evaluate",
    context_settings=CONTEXT,
    params=quality.params,
    callback=quality.callback,
    help=quality.help,
    examples=QUALITY_EXAMPLES,
    groups=QUALITY_GROUPS,
)
