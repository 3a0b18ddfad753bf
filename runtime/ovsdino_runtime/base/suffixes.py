"""Recognise photos, videos, system files and results of earlier runs by their names."""

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
RESULT_MARK = b"Software\0ovsdino"  # keyword of a text chunk in the PNGs that we write
MARK_WITHIN = 4096  # [bytes] of the file
RESULT_ENDS = ("_overlay", "_labels")  # of the names of results that are pictures or videos


def is_photo(path: Path) -> bool:
    """Tell whether a file has the suffix of a photo."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not is_system_file(path)


def is_video(path: Path) -> bool:
    """Tell whether a file has the suffix of a video."""
    return path.suffix.lower() in VIDEO_SUFFIXES and not is_system_file(path)


def is_system_file(path: Path) -> bool:
    """Tell whether a file is an operating system's: ``._photo.jpg`` (macOS), ``Thumbs.db`` (Windows)."""
    return path.name.startswith("._") or path.name.lower() in RUBBISH


def without_results(files: Iterable[Path]) -> list[Path]:
    """Remove the overlays and labels of earlier runs from a list of files."""
    return [path for path in files if not is_result(path)]


def is_result(path: Path) -> bool:
    """Tell whether a file is a result of an earlier run.

    A result has the name of one, and either holds our mark (PNG) or lies beside that run's JSON or the
    video that it was made from.
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
