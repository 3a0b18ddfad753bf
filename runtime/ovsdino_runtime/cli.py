"""The command ``ovsdino-run``. Everything but click is imported when there is something to do."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from ovsdino_runtime.output import Kind
    from ovsdino_runtime.segmenter import Segmenter
    from ovsdino_runtime.sources import Source
    from ovsdino_runtime.trace import Trace
    from ovsdino_runtime.words import Words

KINDS = ("overlay", "labels", "json")
MORE_KINDS = ("rle", "geojson")
INTERRUPTED = 130  # as shells report Ctrl-C


class RefusedError(click.ClickException):
    """Bad input: one line on stderr, exit 2."""

    exit_code = 2


def _split_kinds(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in value.split(",")))
    if unknown := sorted(set(kinds) - {*KINDS, *MORE_KINDS}):
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(KINDS + MORE_KINDS)}")
    return kinds


def _read_background(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> float | Literal["none"] | None:
    if value is None or value == "none":
        return value  # type: ignore[return-value] # a str that is "none"
    with suppress(ValueError):
        if 0 <= (threshold := float(value)) <= 1:
            return threshold
    raise click.BadParameter(f"{value!r} is neither 'none' nor a number in 0..1")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("photos", nargs=-1, metavar="PHOTO...")
@click.option(
    "--classes",
    metavar="TEXT|@FILE|-",
    help="Words such as 'cat, car|automobile, sky'; - reads lines of them, also while it runs.",
)
@click.option(
    "--vocabulary", metavar="NAME", help="Packaged classes such as ade150; see `ovsdino vocabularies`."
)
@click.option("--model", default="nano", show_default=True, help="A packaged model, or the path of a bundle.")
@click.option(
    "--out",
    default="ovsdino-out",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Directory of results.",
)
@click.option(
    "--save",
    metavar="KINDS",
    callback=_split_kinds,
    default=",".join(KINDS),
    show_default=True,
    help=f"What to write; also {', '.join(MORE_KINDS)}.",
)
@click.option(
    "--background",
    metavar="none|THRESHOLD",
    callback=_read_background,
    help="Pixels less sure than this, in 0..1, are background.  [default: as the vocabulary says]",
)
@click.option("--device", default="cpu", show_default=True, help="Where the model runs: cpu or cuda.")
@click.option(
    "--engine",
    type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]),
    default="onnxruntime",
    show_default=True,
)
@click.option("--threads", type=click.IntRange(min=1), help="Processors to use.  [default: all]")
@click.option(
    "--precision", type=click.Choice(["fp32", "fp16", "bf16", "int8"]), default="fp32", show_default=True
)
@click.option(
    "--templates", metavar="NAME|TEXT|@FILE", help="Prompts around each word.  [default: the model's]"
)
@click.option(
    "--windows",
    type=click.Choice(["model", "none"]),
    default="model",
    show_default=True,
    help="none takes each photo as a whole: faster, less exact.",
)
@click.option("--trace", type=click.Path(path_type=Path), help="Write when each stage ran, for Perfetto.")
@click.option(
    "--prefetch", metavar="FILE", help="Encode the words of a file, one class a line, for later runs."
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
def run(  # noqa: PLR0913 - one argument for each option
    photos: tuple[str, ...],
    classes: str | None,
    vocabulary: str | None,
    model: str,
    out: Path,
    save: "tuple[Kind, ...]",
    background: "float | Literal['none'] | None",
    device: str,
    engine: str,
    threads: int | None,
    precision: Literal["fp32", "fp16", "bf16", "int8"],
    templates: str | None,
    windows: Literal["model", "none"],
    trace: Path | None,
    prefetch: str | None,
    quiet: bool,
) -> None:
    """Name every pixel of PHOTOs with words of your choice.

    A PHOTO is a file, a folder, a pattern, a .txt list of these, a video, a camera's number, or an address
    such as rtsp://... Each photo gets an overlay with a legend, an indexed PNG of its labels, and JSON.
    """
    with _refusing():
        from ovsdino_runtime.labelling import check_output
        from ovsdino_runtime.segmenter import Segmenter
        from ovsdino_runtime.sources import find_sources
        from ovsdino_runtime.trace import Trace
        from ovsdino_runtime.vocabulary import load_templates
        from ovsdino_runtime.words import Words

        prompts = load_templates(templates) if templates else None
        if prefetch is not None:
            _prefetch(prefetch, model, prompts, threads, quiet=quiet)
        if not photos:
            if prefetch is not None:
                return
            raise click.UsageError("Missing argument 'PHOTO...'.")
        words = Words(classes, vocabulary, background)
        sources = find_sources(photos)
        check_output(out)
        with Trace(trace) as tracer:
            segmenter = Segmenter.load(
                model,
                device=device,
                engine=engine,
                threads=threads,
                precision=precision,
                templates=prompts,
                windows=windows,
                trace=tracer,
            )
            _label(segmenter, sources, words, out=out, kinds=save, quiet=quiet, trace=tracer)


def _label(
    segmenter: "Segmenter",
    sources: "list[Source]",
    words: "Words",
    *,
    out: Path,
    kinds: "tuple[Kind, ...]",
    quiet: bool,
    trace: "Trace",
) -> None:
    from ovsdino_runtime.labelling import ResultFiles
    from ovsdino_runtime.report import Report
    from ovsdino_runtime.sources import read_frames
    from ovsdino_runtime.stream import Stream

    stop = threading.Event()
    frames = read_frames(sources, stop=stop, trace=trace)
    with ResultFiles(sources, out, kinds, trace=trace) as files, _finishing(stop):
        stream = Stream(
            segmenter, frames, words.vocabulary, background=words.threshold, consume=files.write, stop=stop
        )
        words.follow(stream)
        Report(len(sources), quiet=quiet, geojson="geojson" in kinds).follow(stream)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("name", required=False)
def vocabularies(name: str | None) -> None:
    """List the packaged vocabularies, or the words of one."""
    with _refusing():
        from ovsdino_runtime.vocabulary import load_vocabulary, vocabulary_names

        if name:
            click.echo("\n".join("|".join(words) for words in load_vocabulary(name).classes))
            return
        for known in map(load_vocabulary, vocabulary_names()):
            click.echo(f"{known.name:15}{len(known.names):4} classes  {known.source.partition(';')[0]}")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, required=True, metavar="VOCABULARY...")
@click.option("--model", required=True, help="The path of a bundle, which is written again.")
def packs(names: tuple[str, ...], model: str) -> None:
    """Put packaged vocabularies into a bundle, encoded, so that no run has to encode them."""
    with _refusing():
        from ovsdino_runtime.prefetch import pack_vocabularies

        bundle = pack_vocabularies(model, names)
        click.echo(f"{bundle.path} knows {', '.join(names)} now")


@contextmanager
def _refusing() -> Iterator[None]:
    from ovsdino_runtime.errors import OvsdinoError

    try:
        yield
    except OvsdinoError as error:
        raise RefusedError(str(error)) from error


def _prefetch(
    file: str, model: str, templates: tuple[str, ...] | None, threads: int | None, *, quiet: bool
) -> None:
    from ovsdino_runtime.prefetch import prefetch, words_of
    from ovsdino_runtime.vocabulary import parse_classes

    words = words_of(parse_classes(f"@{file}"))
    if quiet:
        prefetch(model, words, templates=templates, threads=threads)
        return
    with click.progressbar(length=len(words), label="words", file=sys.stderr) as bar:
        prefetch(model, words, templates=templates, threads=threads, done=bar.update)
    click.echo(f"{len(words)} words are known now")


@contextmanager
def _finishing(stop: threading.Event) -> Iterator[None]:
    """Let the first Ctrl-C end the work, and the second the program."""

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
