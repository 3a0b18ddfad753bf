"""Read rasters window by window with rasterio (extra ``geo``), converted like photos in `base.photo`."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ovsdino_runtime.base.bit_depth import guess_bits, to_8_bits
from ovsdino_runtime.base.color_profile import to_srgb
from ovsdino_runtime.base.decoded_photo import DecodedPhoto
from ovsdino_runtime.base.errors import PhotoError
from ovsdino_runtime.base.frames import Source
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.photo import max_pixels
from ovsdino_runtime.base.photo_address import is_address
from ovsdino_runtime.base.photo_options import PhotoOptions
from ovsdino_runtime.base.tiff import choose_bands, find_valid, note_left_out
from ovsdino_runtime.base.tiff_layout import MIN_IS_WHITE, TiffLayout, read_tiff_layout
from ovsdino_runtime.geometry.types import Array, Mask
from ovsdino_runtime.geometry.windows import Window

RasterFile = Any  # rasterio's DatasetReader; the library has no types
CACHE_MB = 64  # GDAL's cache of decoded blocks; its default is a share of the machine's memory


def is_large_raster(source: Source) -> bool:
    """Tell whether a source is a TIFF with more pixels than the limit of photos."""
    if source.kind != "photo" or is_address(source.address) or not Path(source.address).is_file():
        return False
    try:
        layout = read_tiff_layout(Path(source.address))
    except Exception:  # noqa: BLE001 - damaged files raise anything; reading it as a photo tells what is wrong
        return False
    return layout is not None and layout.width * layout.height > max_pixels()


@contextmanager
def open_raster(path: Path, options: PhotoOptions) -> Iterator["RasterReader"]:
    """Open a raster for reading by windows.

    Args:
        path: a TIFF that rasterio reads.
        options: how to read pixels that the file does not describe.

    Raises:
        PhotoError: rasterio is not installed, or the raster cannot be read.
    """
    try:
        import rasterio
    except ImportError as error:
        raise PhotoError(
            f"{path}: more than {max_pixels() // 1_000_000} megapixels are read by windows, which needs "
            f"rasterio: {install_command('geo')}"
        ) from error
    try:
        with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE_MB):
            warnings.simplefilter("ignore")  # most photos have no geographic reference
            with rasterio.open(path, driver="GTiff") as raster:
                layout = read_tiff_layout(path)
                if layout is None:
                    raise PhotoError("not a TIFF")
                yield RasterReader(raster, layout, options)
    except PhotoError as error:
        raise PhotoError(f"{path}: {error}") from error
    except rasterio.errors.RasterioError as error:
        raise PhotoError(f"{path}: broken raster: {' '.join(str(error).split()):.200}") from error


class RasterReader:
    """An open raster.

    Args:
        raster: rasterio's dataset.
        layout: pixel layout of its first page.
        options: how to read pixels that the file does not describe.

    Raises:
        PhotoError: the bands are not marked as colours, or the raster is stored turned.
    """

    def __init__(self, raster: RasterFile, layout: TiffLayout, options: PhotoOptions) -> None:
        from rasterio.enums import ColorInterp, MaskFlags

        if layout.orientation != 1:
            raise PhotoError("it is stored turned; write it upright with gdal_translate first")
        self.raster = raster
        self._layout = layout
        self._bands = [band + 1 for band in choose_bands(layout, options, converted=True)]
        flags = raster.mask_flag_enums[0]
        alpha = [i for i, kind in enumerate(raster.colorinterp, 1) if kind == ColorInterp.alpha]
        self._alpha = alpha[0] if alpha and options.bands is None else None
        self._has_mask = MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags
        self._nodata = layout.nodata if raster.nodata is None else raster.nodata
        self.notes: tuple[str, ...] = ()
        self._bits = options.bits or layout.declared_bits
        if self._bits is None:
            self._bits, self.notes = guess_bits(self._largest())
        self.notes = (*self.notes, *note_left_out(layout, options))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width [px]."""
        return self.raster.height, self.raster.width

    def read(self, window: Window) -> DecodedPhoto:
        """Read a part of the raster.

        Raises:
            PhotoError: the values cannot be converted to 8 bits.
            rasterio.errors.RasterioError: the file is broken.
        """
        place = (
            (window.top, window.top + window.height),
            (window.left, window.left + window.width),
        )
        samples = np.moveaxis(self.raster.read(self._bands, window=place), 0, 2)  # (H, W, C)
        valid, held = self._find_valid(samples, place), find_valid(samples, self._nodata)
        counted = samples if held is None else np.where(held[:, :, None], samples, 0).astype(samples.dtype)
        pixels, _, _ = to_8_bits(counted, declared=self._bits, bits=None)
        if self._layout.photometric == MIN_IS_WHITE:
            pixels = 255 - pixels
        return DecodedPhoto(self._to_rgb(pixels), valid=valid)

    def _find_valid(self, samples: Array, place: Any) -> Mask | None:  # noqa: ANN401 - rasterio's window
        valid = find_valid(samples, self._nodata)
        if self._alpha is None and not self._has_mask:
            return valid
        opaque: Mask
        if self._alpha is not None:
            opaque = self.raster.read(self._alpha, window=place) != 0
        else:
            opaque = self.raster.dataset_mask(window=place) != 0
        if opaque.all():
            return valid
        return opaque if valid is None else opaque & valid

    def _to_rgb(self, pixels: Array) -> Array:
        from PIL import Image

        rgb = np.broadcast_to(pixels, (*pixels.shape[:2], 3)) if pixels.shape[2] == 1 else pixels
        if self._layout.icc is None:
            return np.ascontiguousarray(rgb)
        image, _ = to_srgb(Image.fromarray(np.ascontiguousarray(rgb)), self._layout.icc)
        return np.asarray(image.convert("RGB"))

    def _largest(self) -> int:
        """Find the largest colour value, block by block; the bit depth is guessed from it."""
        largest = 0
        for _, place in self.raster.block_windows(self._bands[0]):
            samples = np.moveaxis(self.raster.read(self._bands, window=place), 0, 2)
            valid = self._find_valid(samples, place)
            known = samples if valid is None else samples[valid]
            if samples.dtype.kind not in "iu":
                return 65535  # reading the first tile reports the error
            largest = max(largest, int(known.max()) if known.size else 0)
        return largest
