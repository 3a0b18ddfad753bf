"""The command ``ovsdino-run``. Everything but click is imported when there is something to do."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

if TYPE_CHECKING:
    from ovsdino_runtime.labelling import Labelled
    from ovsdino_runtime.output import Kind
    from ovsdino_runtime.segmentation import Segmentation
    from ovsdino_runtime.vocabulary import Vocabulary

KINDS = ("overlay", "labels", "json")
MOST_ROWS = 20  # of a table


class RefusedError(click.ClickException):
    """Bad input: one line on stderr, exit 2."""

    exit_code = 2


def _split_kinds(_context: click.Context, _option: click.Parameter, value: str) -> tuple[str, ...]:
    kinds = tuple(dict.fromkeys(kind.strip() for kind in value.split(",")))
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise click.BadParameter(f"{unknown[0]!r} is not one of {', '.join(KINDS)}")
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
@click.argument("photos", nargs=-1, required=True, metavar="PHOTO...", type=click.Path(path_type=Path))
@click.option("--classes", metavar="TEXT|@FILE", help="Words such as 'cat, car|automobile, sky'.")
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
    help="What to write.",
)
@click.option(
    "--background",
    metavar="none|THRESHOLD",
    callback=_read_background,
    help="Pixels less sure than this, in 0..1, are background.  [default: as the vocabulary says]",
)
@click.option("--device", default="cpu", show_default=True, help="Where the model runs.")
@click.option("--threads", type=click.IntRange(min=1), help="Processors to use.  [default: all]")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "int8"]), default="fp32", show_default=True)
@click.option(
    "--templates", metavar="NAME|TEXT|@FILE", help="Prompts around each word.  [default: the model's]"
)
@click.option("--quiet", is_flag=True, help="Print errors only.")
def run(  # noqa: PLR0913 - one argument for each option
    photos: tuple[Path, ...],
    classes: str | None,
    vocabulary: str | None,
    model: str,
    out: Path,
    save: "tuple[Kind, ...]",
    background: "float | Literal['none'] | None",
    device: str,
    threads: int | None,
    precision: Literal["fp32", "fp16", "int8"],
    templates: str | None,
    quiet: bool,
) -> None:
    """Name every pixel of PHOTOs with words of your choice.

    Each photo gets an overlay with a legend, an indexed PNG of its labels, and a JSON file.
    """
    with _refusing():
        from ovsdino_runtime.labelling import check_output, check_photos, label_photos
        from ovsdino_runtime.segmenter import Segmenter
        from ovsdino_runtime.vocabulary import load_templates

        words, threshold = _choose_classes(classes, vocabulary, background)
        prompts = load_templates(templates) if templates else None
        check_photos(photos)
        check_output(out)
        segmenter = Segmenter.load(
            model, device=device, threads=threads, precision=precision, templates=prompts
        )
        results = label_photos(segmenter, photos, words, out=out, kinds=save, background=threshold)
        _report(results, quiet=quiet)


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


@contextmanager
def _refusing() -> Iterator[None]:
    from ovsdino_runtime.errors import OvsdinoError

    try:
        yield
    except OvsdinoError as error:
        raise RefusedError(str(error)) from error


def _choose_classes(
    classes: str | None, vocabulary: str | None, background: "float | Literal['none'] | None"
) -> "tuple[Vocabulary, float | None]":
    from dataclasses import replace

    from ovsdino_runtime.errors import ClassesError
    from ovsdino_runtime.vocabulary import load_vocabulary, parse_classes

    if (classes is None) == (vocabulary is None):
        raise ClassesError(
            "give either --classes, such as 'cat, grass, sky', or --vocabulary, such as ade150"
        )
    words = load_vocabulary(vocabulary) if vocabulary is not None else parse_classes(classes or "")
    if background is None:
        return words, None
    return replace(words, background=background != "none"), None if background == "none" else background


def _report(results: "Iterator[Labelled]", *, quiet: bool) -> None:
    done, failed = 0, list["Labelled"]()
    for result in results:
        if result.segmentation is None:
            failed.append(result)
            click.echo(f"Error: {result.error}", err=True)
            continue
        done += 1
        if not quiet:
            click.echo(_table(result.photo, result.segmentation, result.files))
    if failed and done:
        names = ", ".join(str(result.photo) for result in failed)
        click.echo(f"{done} done, {len(failed)} not: {names}", err=True)
    if failed:
        sys.exit(1 if done else 2)


def _table(photo: Path, segmentation: "Segmentation", files: Sequence[Path]) -> str:
    regions = segmentation.regions()
    wide = max(len(region.name) for region in regions[:MOST_ROWS])
    rows = [
        f"  {region.name:{wide}}  {region.coverage:6.1%}  {'#' * round(30 * region.coverage)}".rstrip()
        for region in regions[:MOST_ROWS]
    ]
    rest = [f"  and {len(regions) - MOST_ROWS} more"] if len(regions) > MOST_ROWS else []
    height, width = segmentation.labels.shape
    took = sum(segmentation.timings.values()) / 1000
    engine = f"  {segmentation.model}, {segmentation.engine}, {took:.2f} s"
    return "\n".join(
        [f"{photo} ({width}x{height})", *rows, *rest, engine, f"  -> {', '.join(map(str, files))}"]
    )
