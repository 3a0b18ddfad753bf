"""Bundles on the Hugging Face Hub, named OWNER/NAME (extra ``hub``): downloaded once, then used offline."""

import os
import re
import shutil
from pathlib import Path, PurePosixPath

from ovsdino_runtime.base import strict_json
from ovsdino_runtime.base.atomic import write_text
from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.locks import hold_lock
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer, make_private
from ovsdino_runtime.base.regular_file import regular_file
from ovsdino_runtime.bundle.bundle import MANIFEST, load_bundle

FOLDER = "bundle"  # of the repository, beside the weights that `ovsdino models push` uploads
HUB = "https://huggingface.co"
REPOSITORY = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+))?")
COMMIT = re.compile(r"[0-9a-f]{40}")


def is_repository(model: str | Path) -> bool:
    """Tell whether a model name is OWNER/NAME or OWNER/NAME@REVISION on the Hub.

    Paths are not: a `Path`, a name that ends in ``.ovs``, or an OWNER that is a local folder.
    """
    if not isinstance(model, str) or not REPOSITORY.fullmatch(model):
        return False
    return not model.startswith(".") and not model.endswith(".ovs") and not Path(model).parent.exists()


def hub_bundle(model: str) -> Path:
    """Return the bundle of a repository from the user's cache; download it the first time.

    The first download uses the newest commit, or REVISION (a commit, tag or branch); later calls keep using
    that commit.

    Args:
        model: see `is_repository`.

    Raises:
        BundleError: huggingface_hub is missing, the repository has no bundle, the hash of a file differs from
            the manifest, or another user of this machine can change the downloaded files.
    """
    match = REPOSITORY.fullmatch(model)
    assert match
    repo, revision = match["repo"], match["revision"] or "main"
    folder = cache_dir() / "models" / "hub"
    name = repo.replace("/", "--")
    pin = folder / f"{name}@{revision}.commit"
    commit = revision if COMMIT.fullmatch(revision) else _read_pin(pin)
    if commit and (path := folder / f"{name}@{commit}.ovs").is_dir():
        return _trusted(path, pin)
    commit = commit or _newest_commit(repo, revision)
    path = folder / f"{name}@{commit}.ovs"
    if not path.is_dir():
        _fetch(repo, commit, path)
    if commit != revision:
        write_text(pin, commit)
    return _trusted(path, pin)


def _trusted(path: Path, pin: Path) -> Path:
    """Return a bundle's path, unless another user can change the bundle or say which one it is."""
    if writer := find_foreign_writer(path / MANIFEST) or find_foreign_writer(pin):
        raise BundleError(f"{path}: not used, for it may not be what was fetched: {writer}")
    return path


def _read_pin(pin: Path) -> str | None:
    try:
        commit = regular_file(pin).read_text(encoding="ascii").strip()
    except (OSError, ValueError, RecursionError):
        return None
    return commit if COMMIT.fullmatch(commit) else None


def _newest_commit(repo: str, revision: str) -> str:
    try:
        from huggingface_hub import errors, get_hf_file_metadata, hf_hub_url
    except ImportError as error:
        raise BundleError(
            f"{repo}: models of the Hub need huggingface_hub; {install_command('hub')}"
        ) from error
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}:
        raise BundleError(f"{repo}: not here yet, and HF_HUB_OFFLINE forbids the network")
    broken = (errors.HfHubHTTPError, errors.HTTPError)  # type: ignore[attr-defined] # of its http library
    try:
        url = hf_hub_url(repo, f"{FOLDER}/{MANIFEST}", revision=revision, endpoint=_endpoint())
        commit = get_hf_file_metadata(url).commit_hash
    except (*broken, OSError, ValueError, RecursionError) as error:
        raise _not_fetched(repo, f"{FOLDER}/{MANIFEST} at {revision}", error) from error
    if not commit or not COMMIT.fullmatch(commit):
        raise BundleError(f"{repo}: the Hub names no commit for {revision}: got {commit!r}")
    return commit


def _fetch(repo: str, commit: str, path: Path) -> None:
    """Download and check the files of a bundle at a commit, then rename the folder; resumes a partial one.

    Only one process downloads; others wait for it.
    """
    try:
        from huggingface_hub import errors, hf_hub_download
    except ImportError as error:
        raise BundleError(
            f"{repo}: models of the Hub need huggingface_hub; {install_command('hub')}"
        ) from error
    broken = (errors.HfHubHTTPError, errors.HTTPError)  # type: ignore[attr-defined] # of its http library
    staging = path.with_name(f".{path.name}.partial")
    make_private(path.parent)

    def download(name: str) -> Path:
        try:
            file = f"{FOLDER}/{name}"
            came = hf_hub_download(repo, file, revision=commit, local_dir=staging, endpoint=_endpoint())
        except (*broken, OSError, ValueError, RecursionError) as error:
            raise _not_fetched(repo, f"{FOLDER}/{name} at {commit[:12]}", error) from error
        return Path(came)

    with hold_lock(path.with_name(f".{path.name}.lock")):
        if path.is_dir():  # another process was faster
            return
        staging.mkdir(exist_ok=True)
        for name in _listed_files(repo, download(MANIFEST)):
            download(name)
        try:
            load_bundle(staging / FOLDER)  # every file has the hash of the manifest
            (staging / FOLDER).replace(path)
        finally:
            shutil.rmtree(staging)


def _listed_files(repo: str, manifest: Path) -> list[str]:
    try:
        files = strict_json.loads(regular_file(manifest).read_text(encoding="utf-8"))["files"]  # type: ignore[index] # TypeError
        names = [str(name) for name in dict(files)]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{repo}: {FOLDER}/{MANIFEST} is no manifest of a bundle: {error}") from error
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise BundleError(f"{repo}: file {name!r} leads out of the bundle; do not use this repository")
    return names


def _not_fetched(repo: str, what: str, error: Exception) -> BundleError:
    reason = " ".join(str(error).split())[:200]
    return BundleError(
        f"{repo}: {what} was not fetched: {reason}; a path of a bundle must exist, and a repository needs a "
        f"folder {FOLDER}/, as `ovsdino models push --bundle` uploads it"
    )


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT", HUB).rstrip("/")
