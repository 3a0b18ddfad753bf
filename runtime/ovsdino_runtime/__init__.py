"""Run a bundle: a photo in, named regions out. numpy only: no torch, no compiler.

from ovsdino_runtime import Segmenter
segmenter = Segmenter.load("nano")
segmentation = segmenter("street.jpg", "road, car|taxi, building, sky")
segmentation.overlay().save("overlay.png")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovsdino_runtime.base.segmentation import Segmentation
    from ovsdino_runtime.files.sources import read_frames
    from ovsdino_runtime.segmenter import Segmenter
    from ovsdino_runtime.stream import Stream

WHERE = {
    "Segmentation": "base.segmentation",
    "Segmenter": "segmenter",
    "Stream": "stream",
    "read_frames": "files.sources",
}
__all__ = ["Segmentation", "Segmenter", "Stream", "read_frames"]


def __getattr__(name: str) -> object:
    """Import a name when it is first used: ``ovsdino-run --help`` needs none."""
    from importlib import import_module

    if name not in WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ovsdino_runtime.{WHERE[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return list(__all__)
