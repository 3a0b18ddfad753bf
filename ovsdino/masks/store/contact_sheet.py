"""Draw a contact sheet: samples of the masks, to inspect before training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ovsdino.masks.store.shards import MaskReader, PhotoMasks
from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.photo import load_photo

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

CELL = 320  # [px] side of a sample
TEXT = 44  # [px] height of the words beneath it
TINT = 0.5  # opacity of a mask
INK, PAPER = (24, 24, 27), (255, 255, 255)


def draw_sheet(reader: MaskReader, photos: Path, *, count: int = 12, columns: int = 4) -> Image:
    """Draw evenly spaced photos of the folder with their masks and words.

    Args:
        reader: the masks.
        photos: folder of the photos.
        count: largest number of samples.
        columns: number of samples per row.

    Raises:
        PhotoError: a photo no longer exists.
    """
    from PIL import Image

    chosen = np.unique(np.linspace(0, len(reader) - 1, min(count, len(reader))).astype(int))
    rows = -(-len(chosen) // columns)
    page = Image.new("RGB", (columns * CELL, max(1, rows) * (CELL + TEXT)), PAPER)
    for place, number in enumerate(chosen):
        corner = (place % columns * CELL, place // columns * (CELL + TEXT))
        page.paste(draw_sample(reader[int(number)], photos), corner)
    return page


def draw_sample(masks: PhotoMasks, photos: Path) -> Image:
    """Draw a photo, at most ``CELL`` wide and high, above its words: (CELL + TEXT, CELL)."""
    from PIL import Image, ImageDraw

    pixels = load_photo(photos / masks.image).astype(np.float32)
    colours = palette(len(masks.regions))  # the overlays' colours
    for place, region in enumerate(masks.regions):
        if region.rle is not None:
            inside = region.rle.decode()
            pixels[inside] = (1 - TINT) * pixels[inside] + TINT * colours[place]
    photo = Image.fromarray(pixels.astype(np.uint8))
    scale = min((CELL - 4) / masks.width, (CELL - 4) / masks.height)
    photo = photo.resize((max(1, round(masks.width * scale)), max(1, round(masks.height * scale))))
    cell = Image.new("RGB", (CELL, CELL + TEXT), PAPER)
    cell.paste(photo, ((CELL - photo.width) // 2, CELL - photo.height))
    _write_words(ImageDraw.Draw(cell), masks)
    return cell


def _write_words(draw: ImageDraw, masks: PhotoMasks) -> None:
    """Write the nouns in the colours of their masks, others in black; count those that do not fit."""
    colours = palette(len(masks.regions)).tolist()
    words = {r.noun: tuple(colours[i]) if r.rle else INK for i, r in enumerate(masks.regions)}
    x, y, left = 4, CELL + 4, len(words)
    for noun, colour in (words or {"no masks": INK}).items():
        width = int(draw.textlength(f"{noun}  "))
        if x > 4 and x + width > CELL:
            x, y = 4, y + 13
        if y > CELL + TEXT - 26 and left > 1 and x + width + 30 > CELL:
            draw.text((x, y), f"+{left}", fill=INK)
            return
        draw.text((x, y), noun, fill=colour)
        x, left = x + width, left - 1
