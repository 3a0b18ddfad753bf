"""Find models by name or path, and offer to download a published model that is missing.

`ovsdino models` knows which models can be downloaded and converts them to bundles. It runs in a child
process, because this room must not import torch or use the network.
"""

import subprocess
import sys
from importlib import resources
from pathlib import Path

from ovsdino_runtime.base.errors import BundleError
from ovsdino_runtime.base.paths import cache_dir
from ovsdino_runtime.base.private import find_foreign_writer
from ovsdino_runtime.bundle.bundle import MANIFEST
from ovsdino_runtime.bundle.hub import hub_bundle, is_repository

OVSDINO = (sys.executable, "-c", "from ovsdino.cli import main; main(prog_name='ovsdino')")
UNKNOWN = 3  # its answer to a name that it does not know


def offer_download(model: str) -> None:
    """Offer to download a published model that is missing, and wait for it; without a terminal, exit.

    Args:
        model: the name as the user gave it. A path, an available name or an unknown name is ignored.

    Raises:
        SystemExit: the model was not downloaded; the reason has been printed in one line.
    """
    if Path(model).exists() or Path(model).name != model or model in packaged_models() | kept_models():
        return
    done = subprocess.run([*OVSDINO, "models", "prepare", "--first-use", "--", model], check=False)
    if done.returncode not in (0, UNKNOWN):
        raise SystemExit(done.returncode)


def packaged_models() -> dict[str, Path]:
    """Return the models that are installed with the package, by name."""
    folder = Path(str(resources.files("ovsdino_runtime") / "models"))
    return {path.stem: path for path in sorted(folder.glob("*.ovs"))}


def kept_models() -> dict[str, Path]:
    """Return the models that `ovsdino models prepare` stored in the user's cache, by name."""
    folder = cache_dir() / "models"
    return {path.stem: path for path in sorted(folder.glob("*.ovs")) if (path / MANIFEST).is_file()}


def find_bundle(model: str | Path) -> Path:
    """Find a bundle by the name of a packaged or kept model, by its path, or by OWNER/NAME on the Hub.

    Raises:
        BundleError: there is no such bundle (the message lists known names), or another user can change it.
            See also `hub_bundle`.
    """
    known = packaged_models()
    if isinstance(model, str) and (bundle := (kept_models() | known).get(model)):
        if model not in known and (writer := find_foreign_writer(bundle / MANIFEST)):
            raise BundleError(f"{bundle}: not used, for it may not be what was fetched: {writer}")
        return bundle
    if (Path(model) / MANIFEST).is_file():
        return Path(model)
    if isinstance(model, str) and is_repository(model):
        return hub_bundle(model)
    kind = (
        "a directory without bundle.json" if Path(model).is_dir() else "neither a packaged model nor a bundle"
    )
    raise BundleError(
        f"{model}: {kind}; packaged models: {', '.join(known) or 'none'}; "
        "`ovsdino models` lists what can be fetched, and `ovsdino-export --model NAME --out DIR` writes a "
        "bundle, whose path can be given here"
    )
