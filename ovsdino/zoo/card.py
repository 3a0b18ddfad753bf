"""Write the model card of a trained network from the records of its run."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from ovsdino import __version__
from ovsdino.network.checkpoint import CheckpointError
from ovsdino.training.run.checkpointing import BEST, LAST, Header, read_header
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.regular_file import regular_file

WEIGHTS = "model.safetensors"  # as the Hub expects it
LATEST = 100  # steps whose loss is averaged


@dataclass(frozen=True)
class RunRecords:
    """The records of a training run: weights, configuration, recipe and logs."""

    weights: Path
    config: dict[str, Any]  # the network's, out of the weights' metadata
    header: Header  # how far the run came, its recipe and the hashes of what went in
    epochs: tuple[dict[str, str], ...]
    steps: tuple[dict[str, str], ...]

    @property
    def name(self) -> str:
        """The preset's name."""
        return str(self.config["name"])


def read_run(run: Path) -> RunRecords:
    """Read the records of a run; of two weights files, the one with the best validation.

    Raises:
        CheckpointError: the folder contains no run of `ovsdino train`, or no epoch has been finished.
    """
    header = read_header(run)
    weights = next((run / name for name in (BEST, LAST) if (run / name).is_file()), None)
    if header is None or weights is None:
        raise CheckpointError(
            f"{run}: no run of `ovsdino train` with a finished epoch (it would hold {BEST} or {LAST})"
        )
    return RunRecords(
        weights=weights,
        config=read_configuration(weights),
        header=header,
        epochs=_rows(run / "epochs.csv"),
        steps=_rows(run / "steps.csv"),
    )


def read_configuration(weights: Path) -> dict[str, Any]:
    """Read the network configuration from a weights file of either system.

    Raises:
        CheckpointError: the file has no configuration.
    """
    try:
        with safe_open(regular_file(weights), framework="pt") as file:
            config: dict[str, Any] = json.loads((file.metadata() or {})["config"])
    except (SafetensorError, OSError, KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(
            f"{weights}: no model configuration inside; was it written by ovsdino?"
        ) from error
    if not isinstance(config.get("name"), str):
        raise CheckpointError(f"{weights}: its configuration has no name; was it written by ovsdino?")
    return config


def write_card(records: RunRecords, repo: str, licence: str | None) -> str:
    """Write the card in Markdown, with the front matter that the Hub reads.

    Args:
        records: the records of the run.
        repo: OWNER/NAME on the Hub, for the commands.
        licence: the Hub's identifier of the weights' licence; None states no licence.
    """
    recipe = records.header.settings.get("recipe", {})
    front = ["library_name: ovsdino", "pipeline_tag: image-segmentation"]
    front += [f"license: {licence}"] if licence else []
    title = (
        f"# {repo.rpartition('/')[2]}\n\n`{records.name}`, trained with ovsdino {__version__}: it names "
        "every pixel of a photo with words that are chosen when it is used."
    )
    parts = [
        "\n".join(["---", *front, "tags:", "- open-vocabulary", "- semantic-segmentation", "---"]),
        title,
        _how_to_use(records.name, repo, str(records.config.get("text_encoder", "nano"))),
        "## Training\n\n" + _table(("setting", "value"), _facts(records, recipe).items()),
    ]
    if any(len(row) > len(("step", "epoch")) for row in records.epochs):
        header = tuple(records.epochs[0])
        parts.append("### Epochs\n\n" + _table(header, (tuple(row.values()) for row in records.epochs)))
    parts.append("Every step is in `steps.csv`, every epoch in `epochs.csv`.")
    parts.append(f"### Recipe\n\n```json\n{json.dumps(recipe, indent=1)}\n```")
    parts.append(
        "## Licence\n\n"
        + (f"The weights: `{licence}`." if licence else "Whoever published this stated no licence.")
        + " The program: Apache-2.0. The weights that training began with, and the photos, have their own."
    )
    return "\n\n".join(parts) + "\n"


def _how_to_use(name: str, repo: str, text: str) -> str:
    more = " --text-checkpoint CLIP" if text.startswith("clip") else ""
    return (
        "## Use\n\n```bash\n"
        f"{install_command('hub,export,cpu')}\n"
        f"ovsdino models pull {repo} --out weights.safetensors\n"
        f"ovsdino-export --model {name} --checkpoint weights.safetensors{more} --out .\n"
        f"ovsdino-run PHOTO --model {name}.ovs --classes 'cat, grass, sky'\n```"
    )


def _facts(records: RunRecords, recipe: Mapping[str, Any]) -> dict[str, str]:
    settings = records.header.settings
    facts = {"preset": records.name, "recipe": str(recipe.get("name", ""))}
    facts |= {"steps": str(records.header.step), "epochs": str(len(records.epochs))}
    facts |= {key: str(recipe[key]) for key in ("precision", "seed") if key in recipe}
    facts["phases"] = ", ".join(
        f"{phase['epochs']} epochs at {phase['size']} px, batch {phase['batch']}"
        for phase in recipe.get("phases", ())
    )
    if losses := [float(row["loss"]) for row in records.steps[-LATEST:] if row.get("loss")]:
        facts[f"loss, mean of the last {len(losses)} steps"] = f"{sum(losses) / len(losses):.4g}"
    if records.header.best is not None:
        facts["best mIoU in validation"] = f"{records.header.best:.2f}"
    for key in ("masks", "init", "text tower", "sam"):
        if key in settings:
            facts[f"{key}, digest"] = str(settings[key])
    facts[f"sha256 of {WEIGHTS}"] = hashlib.sha256(records.weights.read_bytes()).hexdigest()
    return {key: value for key, value in facts.items() if value}


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    cells = [list(header), *map(list, rows)]
    cells.insert(1, ["---"] * len(cells[0]))
    return "\n".join(f"| {' | '.join(row)} |" for row in cells)


def _rows(path: Path) -> tuple[dict[str, str], ...]:
    if not path.is_file():
        return ()
    with path.open(newline="") as file:
        return tuple(csv.DictReader(file))
