"""``ovsdino-run`` for rasters larger than memory: progress, a table of classes, and errors."""

import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import click

from ovsdino_runtime.base.errors import OptionError, PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.base.photo_options import PhotoOptions
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.manifest import Manifest
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.files.output import Kind
from ovsdino_runtime.files.rasters import RasterJob, RasterResult, StoppedError, label_raster
from ovsdino_runtime.geometry.raster_tiles import TilePlan, plan_for_view, plan_for_windows
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import Background
from ovsdino_runtime.text.vocabulary import Vocabulary

MAX_ROWS = 20  # lines of a table


@dataclass(frozen=True, kw_only=True)
class RasterRun:
    """Settings of a run over rasters.

    Args:
        model: a name, or the path of a bundle.
        options: how the model runs.
        photo_options: how to read the files.
        vocabulary: the classes.
        background: the threshold below which pixels are background, or "none".
        kinds: the kinds of results to write.
        out: folder of the results.
        quiet: print errors only.
    """

    model: str
    options: RuntimeOptions
    photo_options: PhotoOptions
    vocabulary: Vocabulary
    background: Background
    kinds: Sequence[Kind]
    out: Path
    quiet: bool


def label_rasters(run: RasterRun, stems: Mapping[Source, str], stop: threading.Event) -> tuple[int, int]:
    """Segment rasters one after the other; print a table or an error for each.

    Args:
        run: settings of the run.
        stems: raster -> file name of its results, without suffix.
        stop: set it to stop.

    Returns:
        Numbers of finished and failed rasters.

    Raises:
        OvsdinoError: the model does not support rasters, or a result cannot be written.
    """
    manifest = load_bundle(find_bundle(run.model)).manifest
    tiles = plan_tiles(manifest)
    done, failed = 0, 0
    with Segmenter.load(run.model, tile_options(manifest, run.options, tiles)) as segmenter:
        choice = segmenter.choose(run.vocabulary, background=run.background)
        for source, stem in stems.items():
            if stop.is_set():
                break
            job = RasterJob(
                path=Path(source.address),
                stem=run.out / stem,
                classes=choice.vocabulary.names,
                background=choice.threshold,
                kinds=run.kinds,
                tiles=tiles,
                photo_options=run.photo_options,
            )
            try:
                result = _label(job, segmenter, run=run, stop=stop)
            except (PhotoError, StoppedError) as error:
                failed += 1
                click.echo(f"Error: {error}", err=True)
                continue
            done += 1
            if not run.quiet:
                click.echo(_table(job, result, segmenter))
            for note in result.notes:
                click.echo(f"{source.name}: {note}", err=True)
    return done, failed


def _label(job: RasterJob, segmenter: Segmenter, *, run: RasterRun, stop: threading.Event) -> RasterResult:
    about = {
        "model": segmenter.bundle.manifest.name,
        "model_digest": segmenter.bundle.digest,
        "engine": segmenter.vision.description,
    }
    live = sys.stderr.isatty() and not run.quiet
    shown = -1

    def show(number: int, count: int) -> None:
        nonlocal shown
        percent = 100 * number // count
        if run.quiet or (not live and percent // 10 == shown // 10):
            return
        shown = percent
        line = f"{job.path}: {number} of {count} tiles, {percent} %"
        click.echo(f"\r\x1b[K{line}" if live else line, nl=not live, err=True)

    try:
        return label_raster(
            job,
            lambda photo: segmenter(photo, run.vocabulary, background=run.background),
            about=about,
            done=show,
            stop=stop,
        )
    finally:
        if live:
            click.echo("\r\x1b[K", nl=False, err=True)


def plan_tiles(manifest: Manifest) -> TilePlan:
    """Plan the tiles for a model: its working size, with margins for the windows at their edges."""
    if manifest.dinov3seg is not None:
        return plan_for_view(manifest.dinov3seg.view)
    windows = manifest.windows
    return plan_for_windows(windows.size, windows.stride, max_side=manifest.preprocessing.long_side)


def tile_options(manifest: Manifest, options: RuntimeOptions, tiles: TilePlan) -> RuntimeOptions:
    """Return options that keep a tile's size and make its labels independent of the tiling.

    Raises:
        OptionError: with an option, labels would depend on the tiling.
    """
    if options.short_side is not None or options.inference != "slide":
        wrong = "--short-side" if options.short_side is not None else f"--inference {options.inference}"
        raise OptionError(
            f"{wrong} has no effect on rasters that are read by windows, at their own resolution; leave it "
            "out, or scale the raster with gdal_translate -outsize 50% 50%"
        )
    if manifest.dinov3seg is not None:
        return options
    refines = manifest.refine is not None if options.refine is None else options.refine
    keep_small = 0.0 if refines and options.min_area is None else options.min_area
    return replace(options, short_side=tiles.side, min_area=keep_small)


def _table(job: RasterJob, result: RasterResult, segmenter: Segmenter) -> str:
    """Format a raster's classes, model, time and files as lines."""
    height, width = result.size
    regions = result.regions(job.classes)[:MAX_ROWS]
    wide = max(len(str(region["name"])) for region in regions)
    rows = [f"  {region['name']:{wide}}  {region['coverage']:6.1%}" for region in regions]
    manifest = segmenter.bundle.manifest
    engine = f"  {manifest.name}, {segmenter.vision.description}, {result.seconds:.1f} s"
    files = f"  -> {', '.join(map(str, result.files))}"
    return "\n".join([f"{job.path} ({width}x{height})", *rows, engine, files])
