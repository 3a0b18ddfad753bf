"""Segment photos with a bundle: numpy and an engine, no torch and no compiler.

from ovsdino_runtime import Segmenter
with Segmenter.load("nano") as segmenter:
    segmentation = segmenter("street.jpg", "road, car|taxi, building, sky")
segmentation.save("overlay.png")
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovsdino_runtime.base.errors import (
        BundleError,
        ClassesError,
        EngineError,
        NotAPhotoError,
        OptionError,
        OutputError,
        OvsdinoError,
        PhotoError,
        TooLargeError,
    )
    from ovsdino_runtime.base.objects import SegmentedObject
    from ovsdino_runtime.base.options import RuntimeOptions
    from ovsdino_runtime.base.photo_options import PhotoOptions
    from ovsdino_runtime.base.segmentation import Region, Segmentation
    from ovsdino_runtime.files.sources import read_frames
    from ovsdino_runtime.segmenter import Segmenter
    from ovsdino_runtime.stream import Result, Stream
    from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary, vocabulary_names

# The module of each public name. It is imported on first use of the name: `ovsdino-run --help` imports none.
_PLACES = {
    "base.errors": (
        *("BundleError", "ClassesError", "EngineError", "NotAPhotoError", "OptionError", "OutputError"),
        *("OvsdinoError", "PhotoError", "TooLargeError"),
    ),
    "base.objects": ("SegmentedObject",),
    "base.options": ("RuntimeOptions",),
    "base.photo_options": ("PhotoOptions",),
    "base.segmentation": ("Region", "Segmentation"),
    "files.sources": ("read_frames",),
    "segmenter": ("Segmenter",),
    "stream": ("Result", "Stream"),
    "text.vocabulary": ("Vocabulary", "load_vocabulary", "vocabulary_names"),
}
_MODULES = {name: module for module, names in _PLACES.items() for name in names}
__all__ = [
    "BundleError",
    "ClassesError",
    "EngineError",
    "NotAPhotoError",
    "OptionError",
    "OutputError",
    "OvsdinoError",
    "PhotoError",
    "PhotoOptions",
    "Region",
    "Result",
    "RuntimeOptions",
    "Segmentation",
    "SegmentedObject",
    "Segmenter",
    "Stream",
    "TooLargeError",
    "Vocabulary",
    "load_vocabulary",
    "read_frames",
    "vocabulary_names",
]


def __getattr__(name: str) -> object:
    """Import the module of a public name on first use."""
    from importlib import import_module

    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"ovsdino_runtime.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)
