"""Official files into the user's cache: checked, whole or not there, and never touched again."""

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
    """Fetch the files of a name that are not there yet.

    ``HF_ENDPOINT`` names a mirror of the Hub, ``HF_HUB_OFFLINE=1`` forbids the network, and
    ``OVSDINO_CACHE`` moves the cache.

    Args:
        name: a key of :data:`ovsdino.zoo.catalogue.ENTRIES`.
        report: told of each step in a few words.
        progress: told of each block.

    Returns:
        The folder with all its files.

    Raises:
        FetchError: a file cannot be had or is not the one that it should be; nothing half-written is left
            under its name, and what came is kept to go on with.
    """
    folder = weights_folder(name)
    wanted = missing_files(name)
    for file in find_entry(name).files:
        if file.file in wanted:
            fetch_file(file, folder, report, progress)
        elif isinstance(file, GatedFile):  # somebody has put it there
            report(verify(folder / file.file, file.sha256, "take it away, and ask for it again"))
    return folder


def fetch_file(file: File, folder: Path, report: Report, progress: Progress) -> None:
    """Fetch one file, check it, and give it its name.

    Of several processes that want the same files, the others wait for the first.
    """
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
    """Fetch through huggingface_hub, which goes on where it was cut; the Hub's own hash where we know none.

    Raises:
        OSError: no connection, no such file, no access.
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
    """Read the hash that the Hub gave with a large file: huggingface_hub writes it down beside it."""
    notes = staging / ".cache" / "huggingface" / "download" / f"{file}.metadata"  # revision, etag, time
    lines = notes.read_text(encoding="utf-8").splitlines() if notes.is_file() else []
    return next((line for line in lines[1:2] if len(line) == DIGITS), None)


def verify(came: Path, expected: str | None, cure: str) -> str:
    """Compare a file with the SHA-256, or its first digits, that it should have.

    Args:
        came: the file.
        expected: None where nothing is known.
        cure: what to do where it differs.

    Returns:
        The hash and whether it was expected, for people.

    Raises:
        FetchError: it differs.
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
    """Reject a download that the disk cannot hold.

    Raises:
        OSError: it cannot.
    """
    free = shutil.disk_usage(folder).free
    begun = sum(part.stat().st_size for part in folder.rglob("*") if part.is_file() and part.parent != folder)
    if free + begun < file.size:
        raise OSError(
            errno.ENOSPC, f"the disk has {in_words(free)} left and {in_words(file.size)} are needed"
        )


def reason(error: OSError) -> str:
    """Return in a few words why a download failed."""
    if error.errno == errno.ENOSPC:
        return f"{error.strerror}: make room, or set OVSDINO_CACHE to another disk"
    if isinstance(error, HTTPError):
        return f"the server answers {error.code} {error.reason}"
    words = str(getattr(error, "reason", None) or error)  # of a URLError the cause alone
    return " ".join(words.split())


def endpoint() -> str:
    """Return the Hub's address, or that of its mirror."""
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")


def is_offline() -> bool:
    """Return whether the user forbids network access, read as huggingface_hub reads it."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
