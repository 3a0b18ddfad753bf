"""Which files are photos, videos, rubbish of an operating system, or results of an earlier run."""

from collections.abc import Iterable
from pathlib import Path

PHOTO_SUFFIXES = frozenset(
    [
        ".avif",
        ".bmp",
        ".gif",
        ".heic",
        ".heif",
        ".hif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jpeg",
        ".jpg",
        ".pgm",
        ".png",
        ".pnm",
        ".ppm",
        ".tga",
        ".tif",
        ".tiff",
        ".webp",
    ]
)
VIDEO_SUFFIXES = frozenset(
    [
        ".3gp",
        ".avi",
        ".flv",
        ".m2ts",
        ".m4v",
        ".mjpeg",
        ".mjpg",
        ".mkv",
        ".mov",
        ".mp4",
        ".mpeg",
        ".mpg",
        ".mts",
        ".ogv",
        ".ts",
        ".webm",
        ".wmv",
    ]
)
RUBBISH = {"thumbs.db", "desktop.ini", ".ds_store"}
RESULT_MARK = b"Software\0ovsdino"  # a text chunk of the PNGs that we write
MARK_WITHIN = 4096  # [bytes] of the file
RESULT_ENDS = ("_overlay", "_labels")  # of the names of results that are pictures or videos


def is_photo(path: Path) -> bool:
    """Tell whether a file is named like a photo."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not is_rubbish(path)


def is_video(path: Path) -> bool:
    """Tell whether a file is named like a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_rubbish(path)


def is_rubbish(path: Path) -> bool:
    """Tell whether an operating system left a file: ``._photo.jpg`` of macOS, ``Thumbs.db`` of Windows."""
    return path.name.startswith("._") or path.name.lower() in RUBBISH


def without_results(files: Iterable[Path]) -> list[Path]:
    """Leave out the overlays and labels that an earlier run wrote among the photos."""
    return [path for path in files if not is_result(path)]


def is_result(path: Path) -> bool:
    """Tell whether a file is the result of an earlier run.

    It is named like one, and either holds our mark (PNG), or lies beside the JSON of that run or
    beside the video that it was made of.
    """
    stem = next((path.stem.removesuffix(end) for end in RESULT_ENDS if path.stem.endswith(end)), "")
    if not stem or path.suffix.lower() not in (".png", ".mp4"):
        return False
    if any(path.with_name(stem + end).is_file() for end in (".json", ".jsonl")):
        return True
    if path.suffix.lower() == ".mp4":
        return any(path.with_name(stem + suffix).is_file() for suffix in VIDEO_SUFFIXES)
    try:
        with path.open("rb") as file:
            return RESULT_MARK in file.read(MARK_WITHIN)
    except OSError:
        return False
