"""Draw an aerial scene as a GeoTIFF: python examples/draw_aerial.py SCENE.tif [WIDTH HEIGHT].

Fields, woods, a river, roads and houses in UTM 33N, half a metre a pixel. The scene is invented, and in the
public domain.
"""

import sys

import numpy as np
import rasterio
from PIL import Image, ImageDraw, ImageFilter

METRES = 0.5  # a pixel
PLACE = rasterio.Affine(METRES, 0, 400_000, 0, -METRES, 5_600_000)
FIELDS = ((126, 138, 62), (168, 152, 88), (98, 124, 54), (186, 170, 108), (142, 118, 84), (112, 146, 66))
ROOFS = ((158, 78, 62), (142, 66, 56), (122, 96, 88), (168, 94, 70))
Size = tuple[int, int]  # width and height [px]
CELL = 500  # [px] side of a field, about


def main(path: str, width: str = "4000", height: str = "3000") -> None:
    """Draw a scene of a size [px], and write it with its place on the ground."""
    picture = draw(int(width), int(height), np.random.default_rng(6))
    profile = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:32633", "transform": PLACE}
    size = {"width": picture.width, "height": picture.height}
    stored = {"tiled": True, "compress": "deflate", "photometric": "RGB", "bigtiff": "if_safer"}
    with rasterio.open(path, "w", **profile, **size, **stored) as raster:
        raster.write(np.moveaxis(np.asarray(picture), 2, 0))
    print(f"{path}: {picture.width}x{picture.height} px")


def draw(width: int, height: int, random: np.random.Generator) -> Image.Image:
    """Draw the scene, from the ground up."""
    picture = Image.new("RGB", (width, height))
    pen = ImageDraw.Draw(picture)
    draw_fields(pen, (width, height), random)
    draw_woods(pen, (width, height), random)
    picture = picture.filter(ImageFilter.GaussianBlur(2))
    pen = ImageDraw.Draw(picture)
    draw_river(pen, (width, height))
    for row in range(CELL, height, 3 * CELL):
        draw_road(pen, [(x, row + 40 * np.sin(x / 900)) for x in range(-50, width + 100, 50)])
        draw_houses(pen, width, row=row, random=random)
    for column in range(2 * CELL, width, 4 * CELL):
        draw_road(pen, [(column + 60 * np.sin(y / 700), y) for y in range(-50, height + 100, 50)])
    picture = picture.filter(ImageFilter.GaussianBlur(0.8))
    return add_grain(picture, random)


def draw_fields(pen: ImageDraw.ImageDraw, size: Size, random: np.random.Generator) -> None:
    """Cover the ground with fields; the rows of a crop run along or across each."""
    width, height = size
    for top in range(0, height, CELL):
        left = -int(random.integers(0, CELL))
        while left < width:
            across = int(random.integers(CELL, 2 * CELL))
            colour = np.array(FIELDS[random.integers(len(FIELDS))])
            pen.rectangle((left, top, left + across, top + CELL), fill=tuple(colour.tolist()))
            stripe = tuple((colour - 12).tolist())
            if random.random() < 0.5:
                for x in range(left, left + across, 14):
                    pen.line((x, top, x, top + CELL), fill=stripe, width=5)
            else:
                for y in range(top, top + CELL, 14):
                    pen.line((left, y, left + across, y), fill=stripe, width=5)
            left += across


def draw_woods(pen: ImageDraw.ImageDraw, size: Size, random: np.random.Generator) -> None:
    """Draw woods as crowds of crowns, each with a shadow and a lit side."""
    width, height = size
    for _ in range(max(1, width * height // 2_000_000)):
        middle = random.uniform((0, 0), (width, height))
        spread = random.uniform(120, 260, 2)
        count = int(spread.prod() / 45)
        for x, y in middle + random.normal(0, 0.6, (count, 2)) * spread:
            radius = random.uniform(8, 17)
            green = int(random.integers(52, 86))
            pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(22, 34, 22))
            lit = radius - 3
            crown = (x - 3 - lit, y - 3 - lit, x - 3 + lit, y - 3 + lit)
            pen.ellipse(crown, fill=(green - 20, green, green - 28))


def draw_river(pen: ImageDraw.ImageDraw, size: Size) -> None:
    """Draw a river from left to right, with banks."""
    width, height = size
    x = np.arange(-100, width + 200, 40)
    y = 0.62 * height + 0.12 * height * np.sin(x / width * 7) + 30 * np.sin(x / 300)
    half = 75 + 20 * np.sin(x / 500)
    for more, colour in ((14, (118, 122, 84)), (0, (46, 74, 92))):
        upper, lower = (
            zip(x, y - half - more, strict=True),
            zip(x[::-1], (y + half + more)[::-1], strict=True),
        )
        pen.polygon([*upper, *lower], fill=colour)


def draw_road(pen: ImageDraw.ImageDraw, path: list[tuple[float, float]]) -> None:
    """Draw a road with verges and a broken line in its middle."""
    for wide, colour in ((44, (148, 144, 128)), (32, (112, 112, 116))):
        pen.line(path, fill=colour, width=wide, joint="curve")
    for start, end in zip(path[::2], path[1::2], strict=False):
        pen.line((*start, *end), fill=(222, 222, 216), width=3)


def draw_houses(pen: ImageDraw.ImageDraw, width: int, *, row: int, random: np.random.Generator) -> None:
    """Draw houses on both sides of a road: a shadow, a roof with a lit and a dark side, a garden."""
    for x in range(60, width, 150):
        for side in (-1, 1):
            y = row + 40 * np.sin(x / 900) + side * random.uniform(85, 120)
            long, deep = random.uniform(34, 56), random.uniform(22, 32)
            roof = np.array(ROOFS[random.integers(len(ROOFS))])
            pen.rectangle((x - 65, y - 55, x + 65, y + 55), fill=(104, 128, 64))
            pen.rectangle((x - long + 12, y - deep + 12, x + long + 12, y + deep + 12), fill=(40, 46, 40))
            pen.rectangle((x - long, y - deep, x + long, y), fill=tuple((roof + 26).tolist()))
            pen.rectangle((x - long, y, x + long, y + deep), fill=tuple(roof.tolist()))


def add_grain(picture: Image.Image, random: np.random.Generator) -> Image.Image:
    """Add light and shade of large and small size, as a sensor and the ground have them."""
    pixels = np.asarray(picture).copy()
    large = Image.fromarray(random.integers(0, 256, (9, 12), np.uint8))
    shade = np.asarray(large.resize(picture.size, Image.Resampling.BICUBIC))
    for top in range(0, picture.height, 256):
        rows = slice(top, min(top + 256, picture.height))
        grain = random.normal(0, 5, (rows.stop - top, picture.width, 1))
        lit = 0.92 + 0.16 * shade[rows, :, None] / 255
        pixels[rows] = np.clip(pixels[rows] * lit + grain, 0, 255)
    return Image.fromarray(pixels)


if __name__ == "__main__":
    main(*sys.argv[1:])
