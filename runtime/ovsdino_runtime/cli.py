"""The command ``ovsdino-run``. Only click is imported before the command runs."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ovsdino_runtime.base.cli_errors import user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand, version_option
from ovsdino_runtime.base.cli_photo_options import with_photo_options
from ovsdino_runtime.cli_options import model_options

if TYPE_CHECKING:
    from ovsdino_runtime.base.frames import Frame, Source
    from ovsdino_runtime.base.options import RuntimeOptions
    from ovsdino_runtime.base.photo_options import PhotoOptions
    from ovsdino_runtime.cli_classes import CommandClasses
    from ovsdino_runtime.files.output import Kind
    from ovsdino_runtime.files.report import ProgressReport
    from ovsdino_runtime.files.result_writer import ResultFiles
    from ovsdino_runtime.integrations.ros_bags import BagFiles
    from ovsdino_runtime.segmenter import Segmenter
    from ovsdino_runtime.text.class_lists import Background

KINDS = ("overlay", "labels", "json")
MORE_KINDS = ("rle", "geojson", "gpkg", "coco", "yolo", "labelme", "voc")
BLAS_THREADS = {"OPENBLAS_NUM_THREADS", "GOTO_NUM_THREADS", "OMP_NUM_THREADS"}
INTERRUPTED = 130  # as shells report Ctrl-C

EXAMPLE = Path(__file__).parent / "demo" / "assets" / "street.jpg"
EXAMPLE_CLASSES = "road, car, bus, tree, grass, building"


def _split_kinds(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in value.split(",")))
    if unknown := sorted(set(kinds) - {*KINDS, *MORE_KINDS}):
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(KINDS + MORE_KINDS)}")
    return kinds


def _read_background(_context: click.Context, _option: click.Parameter, value: str | None) -> "Background":
    from ovsdino_runtime.base.errors import ClassesError
    from ovsdino_runtime.text.class_lists import parse_background

    try:
        return parse_background(value)
    except ClassesError as error:
        raise click.BadParameter(str(error)) from error


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        'ovsdino-run photo.jpg --classes "cat, car|automobile, sky"',
        "ovsdino-run photos/ --vocabulary ade150 --save labels,json --out results",
        "ovsdino-run drive.mp4 --classes @names.txt --background-classes surroundings",
    ),
)
@click.argument("photos", nargs=-1, metavar="PHOTO...")
@click.option(
    "--classes",
    metavar="TEXT|@FILE|-",
    help="Class names such as 'cat, car|automobile, sky'; - reads lists line by line from standard input.",
)
@click.option(
    "--vocabulary",
    metavar="NAME",
    help="A packaged list of classes such as ade150; see `ovsdino vocabularies`.",
)
@click.option(
    "--out",
    default="ovsdino-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder of the results.",
)
@click.option(
    "--save",
    metavar="KINDS",
    callback=_split_kinds,
    default=",".join(KINDS),
    show_default=True,
    help=f"What to write; also {', '.join(MORE_KINDS)}, the last four of photos only.",
)
@click.option(
    "--background",
    metavar="none|THRESHOLD",
    callback=_read_background,
    help="Pixels with a lower confidence, in 0..1, are background.  [default: the model's threshold where "
    "the list has a background, 0.2 for one class alone, else none]",
)
@click.option(
    "--background-classes",
    metavar="TEXT|@FILE|NAME",
    help="Classes that count as background: names, or a packaged list such as 'surroundings'.",
)
@with_photo_options
@model_options
@click.option("--trace", type=click.Path(path_type=Path), help="Write the times of all stages, for Perfetto.")
@click.option(
    "--topic",
    metavar="NAME",
    help="Read this image topic of ROS bags, such as drive.mcap, and write a bag of the results.",
)
@click.option("--ray", metavar="ADDRESS", help="Share the work in a Ray cluster; local: on this machine.")
@click.option("--workers", type=click.IntRange(min=1), help="Processes of --ray.  [default: as many as fit]")
@click.option(
    "--prefetch", metavar="FILE", help="Encode the class names of a file, one per line, for later runs."
)
@click.option("--example", is_flag=True, help="Segment a packaged street photo, to check the installation.")
@click.option("--quiet", is_flag=True, help="Print errors only.")
@version_option("ovsdino-run")
def run(  # noqa: PLR0913 - one argument for each option
    *,
    photos: tuple[str, ...],
    classes: str | None,
    vocabulary: str | None,
    out: Path,
    save: "tuple[Kind, ...]",
    background: "Background",
    background_classes: str | None,
    photo_options: "PhotoOptions",
    model: str,
    options: "RuntimeOptions",
    trace: Path | None,
    topic: str | None,
    ray: str | None,
    workers: int | None,
    prefetch: str | None,
    example: bool,
    quiet: bool,
) -> None:
    """Segment PHOTOs into classes that you name.

    A PHOTO is a file, a folder, a pattern, a .txt list of these, a video, a camera's number, or an address
    such as rtsp://... Each photo gets an overlay with a legend, an indexed PNG of its labels, and JSON.

    One class a line in a file, with '|' between synonyms. One class alone is found where its confidence is
    0.2 or more; of several classes, each pixel gets the best.
    """
    _leave_threads_to_the_engine()
    if example:
        photos, classes = (*photos, str(EXAMPLE)), classes or (None if vocabulary else EXAMPLE_CLASSES)
    with user_errors():
        from ovsdino_runtime.cli_classes import CommandClasses

        if prefetch is not None:
            _prefetch(prefetch, model, options, quiet=quiet)
            if not photos:
                return
        if not photos:
            raise click.UsageError("Missing argument 'PHOTO...'.")
        chosen = CommandClasses(
            classes, vocabulary, background=background, background_classes=background_classes
        )
        request = _RunRequest(
            photos=photos,
            classes=chosen,
            model=model,
            options=options,
            photo_options=photo_options,
            out=out,
            save=save,
            quiet=quiet,
        )
        if topic is not None:
            if ray is not None or workers is not None:
                raise click.UsageError("--topic reads bags in this process; leave out --ray and --workers")
            _label_bags(request, topic)
        elif ray is not None or workers is not None:
            _label_on_cluster(request, ray, workers, fixed=classes != "-" and trace is None)
        else:
            _label_here(request, trace)


def _leave_threads_to_the_engine() -> None:
    """Let NumPy multiply matrices in one thread, unless the user set a number.

    OpenBLAS reads the variable when NumPy is imported. Its threads would wait busily, at the import and after
    each product, on the processors that the engine uses; the products here are small.
    """
    if "numpy" not in sys.modules and not BLAS_THREADS & os.environ.keys():
        os.environ["OPENBLAS_NUM_THREADS"] = "1"


@dataclass(frozen=True, kw_only=True)
class _RunRequest:
    """The options of ``ovsdino-run`` that do not depend on where the work is done."""

    photos: tuple[str, ...]
    classes: "CommandClasses"
    model: str
    options: "RuntimeOptions"
    photo_options: "PhotoOptions"
    out: Path
    save: "tuple[Kind, ...]"
    quiet: bool

    def find_sources(self) -> "tuple[list[Source], list[Source]]":
        """Find the sources, check the output folder, and offer to download a missing model.

        Returns:
            All sources, and those of them that are rasters to be read by windows.
        """
        from ovsdino_runtime.base.out_folder import check_out
        from ovsdino_runtime.bundle.models import offer_download
        from ovsdino_runtime.files.raster_reader import is_large_raster
        from ovsdino_runtime.files.result_writer import check_results
        from ovsdino_runtime.files.sources import find_sources

        sources = find_sources(self.photos)
        check_out(self.out)
        rasters = [source for source in sources if is_large_raster(source)]
        check_results(sources, self.out, self.save, rasters=rasters)
        offer_download(self.model)
        return sources, rasters


def _label_here(request: _RunRequest, trace: Path | None) -> None:
    """Segment photos, videos and rasters in this process."""
    from ovsdino_runtime.base.trace import Trace
    from ovsdino_runtime.files.report import ProgressReport, leave
    from ovsdino_runtime.files.result_writer import ResultFiles, name_results
    from ovsdino_runtime.files.sources import find_skipped, read_frames
    from ovsdino_runtime.segmenter import Segmenter

    sources, rasters = request.find_sources()
    stems = name_results(sources)
    before = _label_rasters(request, {raster: stems[raster] for raster in rasters})
    sources = [source for source in sources if source not in rasters]
    if not sources:
        leave(*before)
        return
    with Trace(trace) as tracer:
        segmenter = Segmenter.load(request.model, replace(request.options, trace=tracer))
        read = partial(read_frames, sources, options=request.photo_options, trace=tracer)
        files = ResultFiles(sources, request.out, kinds=request.save, trace=tracer, stems=stems)
        skipped = find_skipped(request.photos)
        report = ProgressReport(len(sources), quiet=request.quiet, skipped=skipped, before=before)
        _follow(segmenter, read, request.classes, files=files, report=report)


def _label_rasters(request: _RunRequest, stems: "dict[Source, str]") -> tuple[int, int]:
    """Segment rasters that are too large for memory; return how many are done, and how many failed."""
    if not stems:
        return 0, 0
    from ovsdino_runtime.cli_rasters import RasterRun, label_rasters

    raster_run = RasterRun(
        model=request.model,
        options=request.options,
        photo_options=request.photo_options,
        vocabulary=request.classes.vocabulary,
        background=request.classes.background,
        kinds=request.save,
        out=request.out,
        quiet=request.quiet,
    )
    stop = threading.Event()
    with _finishing(stop):
        return label_rasters(raster_run, stems, stop)


def _label_on_cluster(request: _RunRequest, address: str | None, workers: int | None, *, fixed: bool) -> None:
    """Segment photos and videos on a Ray cluster."""
    from ovsdino_runtime.cluster.folder import FolderJob
    from ovsdino_runtime.cluster.progress import check_options, share_work

    sources, rasters = request.find_sources()
    address = check_options(address, fixed=fixed)
    if rasters:
        raise click.UsageError(f"{rasters[0].name} is read by windows in this process: leave out --ray")
    if "coco" in request.save:
        raise click.UsageError("--save coco collects all photos in one file: leave out --ray")
    classes = request.classes
    job = FolderJob(
        model=request.model,
        options=request.options,
        vocabulary=classes.vocabulary,
        background=classes.background,
        kinds=request.save,
        out=request.out,
        photo_options=request.photo_options,
    )
    share_work(job, sources, address=address, workers=workers, quiet=request.quiet)


def _label_bags(request: _RunRequest, topic: str) -> None:
    """Segment an image topic of ROS bags in this process."""
    from ovsdino_runtime.base.out_folder import check_out
    from ovsdino_runtime.base.photo_options import PhotoOptions
    from ovsdino_runtime.bundle.models import offer_download
    from ovsdino_runtime.files.report import ProgressReport
    from ovsdino_runtime.integrations.ros_bags import BagFiles, find_bags, import_rosbags, read_bags
    from ovsdino_runtime.segmenter import Segmenter

    if request.photo_options != PhotoOptions():
        raise click.UsageError("--bands, --bits and --strict are for photos: leave --topic out")
    check_out(request.out)
    offer_download(request.model)
    import_rosbags()
    sources = find_bags(request.photos)
    files = BagFiles(sources, topic, request.out)
    report = ProgressReport(len(sources), quiet=request.quiet)

    def read(*, stop: threading.Event) -> "Iterator[Frame]":  # noqa: ARG001 - a bag has an end
        return read_bags(sources, topic)

    with Segmenter.load(request.model, request.options) as segmenter:
        _follow(segmenter, read, request.classes, files=files, report=report)


def _follow(
    segmenter: "Segmenter",
    read: "Callable[..., Iterator[Frame]]",
    chosen: "CommandClasses",
    *,
    files: "ResultFiles | BagFiles",
    report: "ProgressReport",
) -> None:
    """Segment all pictures, write their files and report them; stop on Ctrl-C."""
    from ovsdino_runtime.stream import Stream

    stop = threading.Event()
    with files, _finishing(stop):
        stream = Stream(
            segmenter,
            read(stop=stop),
            classes=chosen.vocabulary,
            background=chosen.background,
            consume=files.write,
            stop=stop,
        )
        chosen.follow(stream)
        report.follow(stream)


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino vocabularies",
        "ovsdino vocabularies voc21 > names.txt",
    ),
)
@click.argument("name", required=False)
def vocabularies(name: str | None) -> None:
    """List the packaged vocabularies, or print one as a file of class names."""
    with user_errors():
        from ovsdino_runtime.text.vocabulary import load_vocabulary, vocabulary_names, write_list

        if name:
            click.echo(write_list(load_vocabulary(name)), nl=False)
            return
        for known in map(load_vocabulary, vocabulary_names()):
            click.echo(f"{known.name:15}{len(known.names):4} classes  {known.source.partition(';')[0]}")


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino packs voc21 ade150 --model my.ovs",
        "ovsdino packs voc21 --model nano --out packed.ovs",
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="VOCABULARY...")
@click.option("--model", required=True, help="The name of a model, or the path of a bundle.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="BUNDLE",
    help="Where the bundle with the vocabularies is written.  [default: the model's bundle is replaced]",
)
def packs(names: tuple[str, ...], model: str, out: Path | None) -> None:
    """Add embeddings of packaged vocabularies to a bundle, so that no run has to encode them."""
    with user_errors():
        from ovsdino_runtime.text.prefetch import pack_vocabularies

        bundle = pack_vocabularies(model, names, out=out)
        click.echo(f"{bundle.path} holds {', '.join(names)} now")


def _prefetch(file: str, model: str, options: "RuntimeOptions", *, quiet: bool) -> None:
    from ovsdino_runtime.text.class_lists import read_classes
    from ovsdino_runtime.text.prefetch import prefetch, words_of

    words = words_of(read_classes(f"@{file}"))
    encode = partial(prefetch, model, words, templates=options.templates, threads=options.threads)
    if quiet:
        encode()
        return
    with click.progressbar(length=len(words), label="words", file=sys.stderr) as bar:
        encode(done=bar.update)
    click.echo(f"{len(words)} words are encoded now")


@contextmanager
def _finishing(stop: threading.Event) -> Iterator[None]:
    """On the first Ctrl-C finish the photos in progress; on the second end the program."""

    interrupted = threading.Event()

    def end(*_: object) -> None:
        interrupted.set()
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.write(2, b"\nfinishing what is begun; Ctrl-C once more ends at once\n")  # safe in a handler

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, end)
    try:
        yield
    except (SystemExit, KeyboardInterrupt):  # also where something failed
        if not interrupted.is_set():
            raise
    finally:
        signal.signal(signal.SIGINT, before)
    if interrupted.is_set():
        sys.exit(INTERRUPTED)
