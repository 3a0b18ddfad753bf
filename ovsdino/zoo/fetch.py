"""Download official files to the user's cache, and check them. Complete files are never changed."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError

from ovsdino.zoo.catalogue import HUB, File, GatedFile, HubFile
from ovsdino.zoo.download import BLOCK, Progress, download
from ovsdino.zoo.store import FetchError, find_entry, in_words, missing_files, weights_folder
from ovsdino_runtime.base.atomic import replace_file
from ovsdino_runtime.base.locks import hold_lock
from ovsdino_runtime.base.private import make_private

Report = Callable[[str], None]
DIGITS = 64  # of a SHA-256


def fetch(name: str, report: Report = lambda _: None, progress: Progress = lambda *_: None) -> Path:
    """Download the missing files of a catalogue entry.

    ``HF_ENDPOINT`` sets a mirror of the Hub, ``HF_HUB_OFFLINE=1`` forbids the network, and ``OVSDINO_CACHE``
    sets the folder of the cache.

    Args:
        name: a key of :data:`ovsdino.zoo.catalogue.ENTRIES`.
        report: called with a short description of each step.
        progress: called with each block.

    Returns:
        The folder with all files.

    Raises:
        FetchError: a file cannot be downloaded or has another hash. Partial downloads are kept under another
            name, to be resumed.
    """
    folder = weights_folder(name)
    wanted = missing_files(name)
    for file in find_entry(name).files:
        if file.file in wanted:
            fetch_file(file, folder, report=report, progress=progress)
        elif isinstance(file, GatedFile):  # somebody has put it there
            report(verify(folder / file.file, file.sha256, "take it away, and ask for it again"))
    return folder


def fetch_file(file: File, folder: Path, *, report: Report, progress: Progress) -> None:
    """Download a file, check it, and rename it. Only one process downloads; others wait for it."""
    target = folder / file.file
    address = file.address(endpoint())
    where = f"{target.name} from {address} belongs in {folder}"
    if isinstance(file, GatedFile):
        raise FetchError(
            f"{target.name} is given only to those who ask its project: fill in the form at {file.page}, "
            f"and put the file into {folder} (or give it with --checkpoint)"
        )
    if is_offline():
        raise FetchError(f"{where}, but HF_HUB_OFFLINE forbids the network; copy it there from elsewhere")
    try:
        make_private(folder)
        with hold_lock(folder / ".lock"):
            if target.is_file():  # another process was faster
                return
            staging = folder / ".partial"
            staging.mkdir(exist_ok=True)
            require_room(file, folder)
            report(f"fetching {address} (about {in_words(file.size)})")
            if isinstance(file, HubFile):
                came, digest = fetch_from_hub(file, staging)
            else:
                came, digest = staging / file.file, file.sha256
                download(address, came, progress=progress)
            try:
                report(verify(came, digest, "it was removed, fetch it again"))
            except FetchError:
                came.unlink()
                raise
            replace_file(came, target)
            shutil.rmtree(staging)
    except OSError as error:
        raise FetchError(f"{where}, but {reason(error)}; try again, or copy it there") from error


def fetch_from_hub(file: HubFile, staging: Path) -> tuple[Path, str | None]:
    """Download with huggingface_hub, which resumes; return the file and, if we know no hash, the Hub's hash.

    Raises:
        OSError: there is no connection, no such file, or no access.
    """
    from huggingface_hub import errors, hf_hub_download

    broken = (errors.HfHubHTTPError, errors.HTTPError)  # type: ignore[attr-defined] # of its http library
    try:
        came = hf_hub_download(
            file.repo, file.file, revision=file.revision, local_dir=staging, endpoint=endpoint()
        )
    except broken as error:
        raise OSError(" ".join(str(error).split())) from error
    return Path(came), file.sha256 or hash_of_hub(staging, file.file)


def hash_of_hub(staging: Path, file: str) -> str | None:
    """Read the Hub's hash of a large file, which huggingface_hub stores beside the file."""
    notes = staging / ".cache" / "huggingface" / "download" / f"{file}.metadata"  # revision, etag, time
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    return next((line for line in lines[1:2] if len(line) == DIGITS), None)


def verify(came: Path, expected: str | None, cure: str) -> str:
    """Compare the SHA-256 of a file with the expected one, or its first digits.

    Args:
        came: the file.
        expected: the expected hash; None if it is unknown.
        cure: advice if the hash differs.

    Returns:
        A line with the hash and whether it was expected.

    Raises:
        FetchError: the hash differs.
    """
    digest = hashlib.sha256()
    with came.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
    actual = digest.hexdigest()
    if expected is not None and not actual.startswith(expected.lower()):
        raise FetchError(f"{came.name}: sha256 {actual}, expected {expected}; {cure}")
    return f"{came.name}: sha256 {actual} ({'as expected' if expected else 'none is known to compare with'})"


def require_room(file: File, folder: Path) -> None:
    """Check that the disk has space for a download.

    Raises:
        OSError: there is too little space.
    """
    free = shutil.disk_usage(folder).free
    begun = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file() and part.parent != folder)
    if free + begun < file.size:
        raise OSError(
            errno.ENOSPC, f"the disk has {in_words(free)} left and {in_words(file.size)} are needed"
        )


def reason(error: OSError) -> str:
    """Return the reason of a failed download in a few words."""
    if error.errno == errno.ENOSPC:
        return f"{error.strerror}: make room, or set OVSDINO_CACHE to another disk"
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    words = str(getattr(error, "reason", None) or error)  # of a URLError the cause alone
    return " ".join(words.split())


def endpoint() -> str:
    """Return the address of the Hub or its mirror."""
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


def is_offline() -> bool:
    """Tell whether the user forbids network access, as huggingface_hub interprets ``HF_HUB_OFFLINE``."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
