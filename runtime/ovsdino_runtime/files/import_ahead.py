"""Import what photos and their results need, while another thread loads the model."""

from contextlib import suppress

from ovsdino_runtime.base.overlay import palette
from ovsdino_runtime.base.version import version
from ovsdino_runtime.geometry.guided_filter import best_box_sum


def import_ahead() -> None:
    """Import Pillow's modules and OpenCV, and prepare what is computed once in a process.

    Nothing depends on it: what is missing is reported where it is needed.
    """
    with suppress(ImportError):
        from PIL import (  # noqa: F401
            Image,
            ImageDraw,
            ImageFont,
            JpegImagePlugin,
            PngImagePlugin,
        )
    best_box_sum()
    palette(1)
    version()
