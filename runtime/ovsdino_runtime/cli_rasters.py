"""``ovsdino-run`` on rasters that are too large for memory: progress, a table, and what failed."""

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

MAX_ROWS = 20  # of a table


@dataclass(frozen=True, kw_only=True)
class RasterRun:
    """How rasters are segmented: the model, the classes, and what is written.

    Args:
        model: a name, or the path of a bundle.
        options: how the model runs.
        photo_options: how the files are read.
        vocabulary: the classes.
        background: the threshold below which pixels are background, or "none".
        kinds: what to write.
        out: the folder.
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
    """Segment rasters one after the other; print a table of each, or what is wrong with it.

    Args:
        run: how.
        stems: the rasters, and what their results are named after.
        stop: ends the work.

    Returns:
        How many are done, and how many failed.

    Raises:
        OvsdinoError: the model cannot do it, or a result cannot be written.
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
                result = _label(job, segmenter, run, stop)
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


def _label(job: RasterJob, segmenter: Segmenter, run: RasterRun, stop: threading.Event) -> RasterResult:
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
    """Plan the tiles of a model: as large as it resizes photos, with room for the windows at their edges."""
    if manifest.dinov3seg is not None:
        return plan_for_view(manifest.dinov3seg.view)
    windows = manifest.windows
    return plan_for_windows(windows.size, windows.stride, max_side=manifest.preprocessing.long_side)


def tile_options(manifest: Manifest, options: RuntimeOptions, tiles: TilePlan) -> RuntimeOptions:
    """Return options under which a tile keeps its size, and its labels do not depend on the tile.

    Raises:
        OptionError: an option would make labels differ from tile to tile.
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
    """Write a raster's classes, how they were found, and the files, in lines."""
    height, width = result.size
    regions = result.regions(job.classes)[:MAX_ROWS]
    wide = max(len(str(region["name"])) for region in regions)
    rows = [f"  {region['name']:{wide}}  {region['coverage']:6.1%}" for region in regions]
    manifest = segmenter.bundle.manifest
    engine = f"  {manifest.name}, {segmenter.vision.description}, {result.seconds:.1f} s"
    files = f"  -> {', '.join(map(str, result.files))}"
    return "\n".join([f"{job.path} ({width}x{height})", *rows, engine, files])
