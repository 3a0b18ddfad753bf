"""Draw a segmentation: class colours over the photo, and a legend with names and shares."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.segmentation import Segmentation
from ovsdino_runtime.geometry.types import Labels

if TYPE_CHECKING:
    from PIL.Image import Image

Colours = npt.NDArray[np.uint8]  # (n, 3) RGB
TINT = 140  # opacity of a region, 0..255
LINE = 235  # opacity of the line between two regions
VEIL = 0.75  # opacity of a legend in the picture, 0..1
INK, GREY, PAPER = (24, 24, 27), (113, 113, 122), (255, 255, 255)
LONGEST_NAME = 24  # characters
MAX_ABSENT = 12  # up to so many classes, the legend names each absent class; beyond, it counts them
ORDERED = 256  # colours sorted by difference, which takes time; more are rarely seen together
FEW = 32  # colours that most lists of classes need; so many are sorted at first


def palette(count: int, *, background: bool = False) -> Colours:
    """Return the colours of the classes: always the same, the first ones as different as possible.

    Example:
        >>> palette(3, background=True).tolist()[0]
        [0, 0, 0]

    Args:
        count: number of labels.
        background: label 0 is the background and becomes black.

    Shape: (count, 3) RGB. Beyond about 2,000 labels the colours repeat.
    """
    colours = _distinct_colours(FEW if count <= FEW else ORDERED)
    chosen = colours[np.arange(count) % len(colours)]
    return np.concatenate([np.zeros((1, 3), np.uint8), chosen])[:count] if background else chosen


def draw_overlay(segmentation: Segmentation) -> "Image":
    """Tint each region, draw lines between regions, and add a legend below or, on upright photos, beside.

    The photo keeps its size; the background is not tinted.
    """
    from PIL import Image

    background = segmentation.background is not None
    colours = palette(len(segmentation.classes), background=background)
    photo = _tint(segmentation, colours, background=background)
    legend = _plan_legend(segmentation, *photo.size)
    side = legend.beside
    size = (
        photo.width + legend.width if side else max(photo.width, legend.width),
        max(photo.height, legend.height) if side else photo.height + legend.height,
    )
    page = Image.new("RGB", size, PAPER)
    page.paste(photo, (0, 0))
    _draw_legend(page, legend, colours, origin=(photo.width, 0) if side else (0, photo.height))
    return page


def draw_frame(segmentation: Segmentation) -> "Image":
    """Tint each region like `draw_overlay`, with the legend inside the picture: the frame keeps its size."""
    from PIL import Image

    colours = palette(len(segmentation.classes), background=segmentation.background is not None)
    picture = _tint(segmentation, colours, background=segmentation.background is not None)
    legend = _plan_legend(segmentation, *picture.size)
    legend = replace(legend, width=min(legend.width, picture.width))
    page = Image.new("RGB", (legend.width, legend.height), PAPER)
    _draw_legend(page, legend, colours, origin=(0, 0))
    top = picture.height - legend.height
    under = picture.crop((0, top, legend.width, picture.height))
    picture.paste(Image.blend(under, page, VEIL), (0, top))
    return picture


def _tint(segmentation: Segmentation, colours: Colours, *, background: bool) -> "Image":
    from PIL import Image

    labels = segmentation.labels
    table = np.zeros((labels.max() + 1, 4), np.uint8)  # (labels, RGBA); what holds no data is not tinted
    shown = min(len(table), len(colours))
    table[:shown, :3] = colours[:shown]
    table[:shown, 3] = TINT
    if background:
        table[0, 3] = 0
    # Four bytes are looked up as one number.
    tint = table.view(np.uint32)[:, 0][labels]  # (H, W)
    line = np.array([*PAPER, LINE], np.uint8).view(np.uint32)[0]
    tint[_lines(labels, thickness=max(1, round(min(labels.shape) / 400)))] = line
    layer = Image.fromarray(tint.view(np.uint8).reshape(*labels.shape, 4))
    picture = Image.fromarray(segmentation.photo)
    picture.paste(layer, mask=layer)
    return picture


def _lines(labels: Labels, *, thickness: int) -> npt.NDArray[np.bool_]:
    """Mark the pixels whose upper or left neighbour belongs to another region. Shape: (H, W)."""
    lines = np.zeros(labels.shape, np.bool_)
    lines[1:] |= labels[1:] != labels[:-1]
    lines[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    for _ in range(thickness - 1):
        lines[1:] |= lines[:-1].copy()
        lines[:, 1:] |= lines[:, :-1].copy()
    return lines


@dataclass(frozen=True)
class _Legend:
    """A legend's entries and layout; all sizes in px."""

    entries: tuple[tuple[int | None, str, str], ...]  # label, name, share
    font: Any
    line: int
    column: int
    columns: int
    beside: bool
    width: int
    height: int


def _plan_legend(segmentation: Segmentation, width: int, height: int) -> _Legend:
    from PIL import ImageFont

    size = max(13, round((width * height) ** 0.5 / 32))
    font = ImageFont.load_default(size=size)
    line, margin = round(size * 1.65), size
    beside = height > 1.15 * width
    few = len(segmentation.classes) <= MAX_ABSENT
    regions = segmentation.regions(absent=few)
    absent = 0 if few else len(segmentation.absent())
    names: list[tuple[int | None, str, str]] = [
        (region.label, _shorten(region.name), _percent(region.coverage)) for region in regions
    ]
    names += [(None, f"{absent} not found", _percent(0))] * bool(absent)
    text = max((font.getlength(name) + font.getlength(share) for _, name, share in names), default=0)
    column = round(text + 3.8 * size)  # swatch and gaps
    columns = 1 if beside else max(1, (width - margin) // column)
    max_count = max(8, (height - 2 * margin) // line if beside else height * 3 // 5 // line) * columns
    entries = names[:max_count]
    if len(names) > max_count:
        rest = sum(region.coverage for region in regions[max_count - 1 :])
        entries[-1] = (None, f"{len(names) - max_count + 1} more", _percent(rest))
    lines = -(-len(entries) // columns)
    return _Legend(
        entries=tuple(entries),
        font=font,
        line=line,
        column=column,
        columns=columns,
        beside=beside,
        width=column * columns + margin,
        height=line * lines + 2 * margin,
    )


def _draw_legend(page: "Image", legend: _Legend, colours: Colours, *, origin: tuple[int, int]) -> None:
    from PIL import ImageDraw

    draw = ImageDraw.Draw(page)
    size = round(legend.line / 1.65)
    lines = -(-len(legend.entries) // legend.columns)
    for index, (label, name, share) in enumerate(legend.entries):
        left = origin[0] + size + index // lines * legend.column
        middle = origin[1] + size + index % lines * legend.line + legend.line // 2
        if label is not None:
            box = (left, middle - size // 2, left + size, middle + size // 2)
            colour = tuple(colours[label].tolist())
            draw.rounded_rectangle(box, radius=size // 4, fill=colour, outline=GREY)
        draw.text((left + 1.6 * size, middle), name, fill=INK, font=legend.font, anchor="lm")
        right = left + legend.column - 1.3 * size
        draw.text((right, middle), share, fill=GREY, font=legend.font, anchor="rm")


def _shorten(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def _percent(share: float) -> str:
    return "< 0.1 %" if 0 < share < 0.001 else f"{100 * share:.1f} %"


@lru_cache(maxsize=2)
def _distinct_colours(count: int) -> Colours:
    """Sort vivid colours so that each is as far as possible, in Oklab, from all colours before it.

    Source: Oklab is B. Ottosson, "A perceptual color space for image processing", 2020.

    Args:
        count: how many are sorted. With `ORDERED`, all others follow; with less, only these are returned.

    Shape: (n, 3) RGB.
    """
    levels = np.linspace(0, 255, 14).round()
    rgb = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    lab = _oklab(rgb)
    light, chroma = lab[:, 0], np.hypot(lab[:, 1], lab[:, 2])
    fit = (light > 0.42) & (light < 0.9) & (chroma > 0.09) & (chroma < 0.21)
    rgb, lab = rgb[fit], lab[fit] * (0.7, 1, 1)  # lightness counts less: the photo shines through
    order = [int(np.abs(rgb - (60, 120, 216)).sum(axis=1).argmin())]
    distance = np.full(len(rgb), np.inf)
    for _ in range(count - 1):
        distance = np.minimum(distance, ((lab - lab[order[-1]]) ** 2).sum(axis=1))
        distance[order[-1]] = -1
        order.append(int(distance.argmax()))
    rest = np.setdiff1d(np.arange(len(rgb)), order) if count >= ORDERED else np.empty(0, np.intp)
    colours: Colours = rgb[np.append(order, rest).astype(np.intp)].astype(np.uint8)
    return colours


def _oklab(rgb: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    share = rgb / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    mix = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    lab: npt.NDArray[np.float64] = np.cbrt(linear @ cones.T) @ mix.T
    return lab
