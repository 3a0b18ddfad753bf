"""Upload a trained network to a repository on the Hugging Face Hub, and download it."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

from ovsdino.zoo.card import WEIGHTS, read_configuration, read_run, write_card
from ovsdino.zoo.catalogue import HubFile
from ovsdino.zoo.fetch import endpoint, fetch_from_hub, is_offline, verify
from ovsdino.zoo.store import FetchError, weights_folder
from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.errors import OutputError
from ovsdino_runtime.base.locks import hold_lock
from ovsdino_runtime.base.private import make_private
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.exchange import staging_folder, sweep_staging
from ovsdino_runtime.bundle.hub import FOLDER

RECORDS = ("epochs.csv", "steps.csv")


def write_folder(
    run: Path, repo: str, folder: Path, *, licence: str | None = None, bundle: Path | None = None
) -> Path:
    """Write the folder that a push uploads: weights, model card, records, and the bundle.

    Args:
        run: the ``--out`` folder of `ovsdino train`.
        repo: OWNER/NAME on the Hub.
        folder: the folder to write; it must not exist.
        licence: see :func:`ovsdino.zoo.card.write_card`.
        bundle: bundle of the run from `ovsdino-export`, for ``Segmenter.load(repo)``; None uploads no bundle.

    Returns:
        The folder.

    Raises:
        BundleError: the bundle is damaged.
        CheckpointError: the run has no weights yet.
        OutputError: the folder exists already.
    """
    records = read_run(run)
    if folder.exists():
        raise OutputError(f"{folder} exists already; choose another folder")
    if bundle is not None:
        load_bundle(bundle)
    folder.parent.mkdir(parents=True, exist_ok=True)
    sweep_staging(folder)
    with staging_folder(folder) as staging:
        (fresh := staging / "new").mkdir()
        if bundle is not None:
            shutil.copytree(bundle, fresh / FOLDER)
        shutil.copyfile(records.weights, fresh / WEIGHTS)
        for name in RECORDS:
            if (run / name).is_file():
                shutil.copyfile(run / name, fresh / name)
        (fresh / "README.md").write_text(write_card(records, repo, licence), encoding="utf-8")
        fresh.replace(folder)
    return folder


def push(folder: Path, repo: str, *, private: bool = False) -> str:
    """Upload a folder of :func:`write_folder`; create the repository if necessary.

    Returns:
        The address of the commit.

    Raises:
        FetchError: there is no token, no connection, or no permission.
    """
    from huggingface_hub import HfApi, errors

    if is_offline():
        raise FetchError(f"{repo}: HF_HUB_OFFLINE forbids the network")
    broken = (errors.HfHubHTTPError, errors.HTTPError)  # type: ignore[attr-defined] # of its http library
    api = HfApi(endpoint=endpoint())
    try:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.upload_folder(repo_id=repo, folder_path=folder, commit_message="Upload by ovsdino")
    except (*broken, OSError, ValueError) as error:
        raise FetchError(
            f"{repo}: not uploaded: {' '.join(str(error).split())}; log in with `hf auth login`"
        ) from error
    return str(commit.commit_url)


def pull(repo: str, out: Path, *, revision: str | None = None) -> str:
    """Download the weights of a trained network.

    Args:
        repo: OWNER/NAME on the Hub.
        out: the file to write.
        revision: a commit, tag or branch; None uses the newest commit.

    Returns:
        The name of its preset.

    Raises:
        FetchError: the file cannot be downloaded.
        CheckpointError: the file is not a network of this package.
        OutputError: the output file exists already.
    """
    if out.exists():
        raise OutputError(f"{out} exists already; choose another --out")
    if is_offline():
        raise FetchError(f"{repo}: HF_HUB_OFFLINE forbids the network")
    staging = weights_folder("pulled") / f"{repo}@{revision or 'newest'}".replace("/", "--")
    try:
        make_private(staging.parent)
        with hold_lock(staging.with_name(f".{staging.name}.lock")):
            staging.mkdir(exist_ok=True)
            came, digest = fetch_from_hub(
                HubFile(repo=repo, file=WEIGHTS, size=0, revision=revision), staging
            )
            try:
                verify(came, digest, "it was removed, pull it again")
                name = str(read_configuration(came)["name"])
                with came.open("rb") as file:
                    write_whole(out, partial(shutil.copyfileobj, file))
            finally:
                shutil.rmtree(staging)
    except (OSError, ValueError) as error:
        raise FetchError(f"{repo}: {WEIGHTS} was not fetched: {' '.join(str(error).split())}") from error
    return name
