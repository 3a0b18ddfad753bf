"""Read TIFFs that Pillow cannot read, with rasterio (extra ``geo``) or tifffile (extra ``tiff``)."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt

from ovsdino_runtime.base.bit_depth import to_8_bits
from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.orientation import upright_array
from ovsdino_runtime.base.photo_options import PhotoOptions
from ovsdino_runtime.base.tiff_layout import ALPHA, CMYK, MIN_IS_WHITE, PALETTE, YCBCR, TiffLayout

if TYPE_CHECKING:
    from PIL.Image import Image

Samples = npt.NDArray[Any]  # (H, W, samples), as stored
NOT_ALPHA = "its last band is marked as alpha and does not look like it: read without that band"
ALPHA_SHARE = 0.9  # least share of clear or opaque pixels in an alpha band


def has_tiff_reader(file: Path | BinaryIO) -> bool:
    """Tell whether a package that can read this file is installed."""
    return find_spec("tifffile") is not None or (isinstance(file, Path) and find_spec("rasterio") is not None)


def refuse_layout(layout: TiffLayout) -> PhotoError:
    """Return the error for a layout that needs another package."""
    return PhotoError(
        f"a TIFF of {layout.describe()} cannot be read without tifffile or rasterio: "
        f"{install_command('tiff')} or {install_command('geo')}"
    )


def read_tiff(
    file: Path | BinaryIO, layout: TiffLayout, options: PhotoOptions
) -> "tuple[Image, npt.NDArray[np.bool_] | None, tuple[str, ...]]":
    """Read the samples of a TIFF's first page, upright.

    Returns:
        A Pillow image of mode L, RGB, RGBA or CMYK; the mask of pixels with data, or None; and notes.

    Raises:
        PhotoError: no reader is installed, the bands are not marked as colours, or the values have no
            natural range.
        Exception: the file is broken; any exception of the reader.
    """
    chosen = choose_bands(layout, options)
    samples = upright_array(read_samples(file, layout), layout.orientation)  # (H, W, samples)
    colours = samples[:, :, list(chosen)]
    valid = find_valid(colours, layout.nodata)
    counted = colours if valid is None else np.where(valid[:, :, None], colours, 0).astype(colours.dtype)
    pixels, used, notes = to_8_bits(counted, declared=layout.declared_bits, bits=options.bits)
    notes = (*notes, *note_left_out(layout, options))
    if options.bands is not None:
        return _image(pixels), valid, notes
    if layout.photometric == MIN_IS_WHITE:
        pixels = 255 - pixels
    if layout.extra and layout.extra[0] in ALPHA and len(chosen) != 4:
        alpha, note = _read_alpha(samples[:, :, len(chosen)], used)
        if alpha is None:
            return _image(pixels), valid, (*notes, note)
        return _with_alpha(pixels, alpha, associated=layout.extra[0] == 1), valid, notes
    return _image(pixels), valid, notes


def looks_like_alpha(values: npt.NDArray[Any], largest: int) -> bool:
    """Tell whether nearly all pixels of a band are clear or opaque, as in alpha but not in near infrared."""
    return float(np.mean((values == 0) | (values == largest))) >= ALPHA_SHARE


def read_samples(file: Path | BinaryIO, layout: TiffLayout) -> Samples:
    """Read the first page's samples as stored. Shape: (H, W, samples).

    Raises:
        PhotoError: no reader is installed, or it returns another shape.
        Exception: the file is broken; any exception of the reader.
    """
    if isinstance(file, Path) and find_spec("rasterio") is not None:
        samples = _read_by_rasterio(file)
    elif find_spec("tifffile") is not None:
        samples = _read_by_tifffile(file)
    else:
        raise refuse_layout(layout)
    if samples.shape != (layout.height, layout.width, layout.samples):
        raise PhotoError(f"a TIFF of {layout.describe()} was read as {samples.shape}; convert it first")
    return samples


def _read_by_rasterio(file: Path) -> Samples:
    import warnings

    import rasterio

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # most photos have no geographic reference
        with rasterio.open(file, driver="GTiff") as raster:
            return np.moveaxis(raster.read(), 0, 2)  # (samples, H, W) -> (H, W, samples)


def _read_by_tifffile(file: Path | BinaryIO) -> Samples:
    import tifffile

    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages[0]
        samples: Samples = page.asarray()
        if page.axes == "SYX":
            return np.moveaxis(samples, 0, 2)
        return samples[:, :, None] if page.axes == "YX" else samples


def choose_bands(layout: TiffLayout, options: PhotoOptions, *, converted: bool = False) -> tuple[int, ...]:
    """Return the indices of the samples that hold colours, from 0."""
    if options.bands is not None:
        if max(options.bands) > layout.samples:
            raise PhotoError(f"band {max(options.bands)} was asked for, it has {layout.samples}; see --bands")
        return tuple(band - 1 for band in options.bands)
    unnamed = (PALETTE, CMYK) if converted else (PALETTE, YCBCR)
    named = layout.photometric not in unnamed and layout.colours > 0
    lone_alpha = layout.colours == 1 and layout.samples == 2 and layout.extra[:1] in ((1,), (2,))
    if (
        named
        and (layout.colours > 1 or layout.samples == 1 or lone_alpha)
        and layout.samples >= layout.colours
    ):
        return tuple(range(layout.colours))
    if layout.samples > 1 and layout.colours == 1:
        example = "1,2,3" if layout.samples > 2 else "1"
        raise PhotoError(
            f"a TIFF of {layout.describe()}: nothing says which bands are red, green and blue; "
            f"give --bands, such as {example}"
        )
    raise PhotoError(f"a TIFF of {layout.describe()} cannot be read; convert it to RGB first")


def note_left_out(layout: TiffLayout, options: PhotoOptions) -> tuple[str, ...]:
    """Return a note if bands behind the colours are left out because nothing says what they hold."""
    unnamed = layout.samples - layout.colours
    if options.bands is not None or layout.colours == 0 or unnamed < 1:
        return ()
    first = layout.colours + 1 + (bool(layout.extra) and layout.extra[0] in ALPHA)
    if first > layout.samples:
        return ()
    which = f"band {first}" if first == layout.samples else f"bands {first} to {layout.samples}"
    return (f"{which} of {layout.samples} left out: not marked as a colour; see --bands",)


def find_valid(colours: Samples, nodata: float | None) -> npt.NDArray[np.bool_] | None:
    """Find the pixels with data: those where not all bands have the nodata value.

    Shape: (H, W, C) -> (H, W); None if all pixels hold data.
    """
    if nodata is None:
        return None
    missing = np.asarray(np.isnan(colours) if np.isnan(nodata) else colours == nodata)
    empty: npt.NDArray[np.bool_] = np.all(missing, axis=2)
    return ~empty if empty.any() else None


def _read_alpha(band: Samples, used: int) -> tuple[npt.NDArray[np.uint8] | None, str]:
    """Convert an alpha band to 8 bits; return a note instead if the band does not look like alpha."""
    bits = used if int(band.max()) < 1 << used else 8 * band.dtype.itemsize
    if band.dtype.kind != "u" or not looks_like_alpha(band, (1 << bits) - 1):
        return None, NOT_ALPHA
    return to_8_bits(band, declared=bits, bits=None)[0], ""


def _with_alpha(pixels: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8], *, associated: bool) -> "Image":
    from PIL import Image

    colours = np.broadcast_to(pixels, (*alpha.shape, 3))
    stacked = np.ascontiguousarray(np.dstack([colours, alpha]))
    if associated:
        return Image.frombytes("RGBa", alpha.shape[::-1], stacked.tobytes()).convert("RGBA")
    return Image.fromarray(stacked)


def _image(pixels: npt.NDArray[np.uint8]) -> "Image":
    """Create a Pillow image: one sample is grey, three are RGB, four are CMYK."""
    from PIL import Image

    height, width, count = pixels.shape
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[count]
    return Image.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())
