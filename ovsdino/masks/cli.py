"""The command ``ovsdino pseudo-masks``, which calls `ovsdino.masks.make`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ovsdino.torch_errors import user_errors
from ovsdino_runtime.base.cli_help import CONTEXT, GroupedCommand

if TYPE_CHECKING:
    from ovsdino.masks.options import MaskOptions

FOLDER = click.Path(path_type=Path)
SHARE = click.FloatRange(0, 1)
COUNT = click.IntRange(min=1)


@click.command(
    cls=GroupedCommand,
    context_settings=CONTEXT,
    examples=(
        "ovsdino pseudo-masks --photos photos --captions captions.json --out masks",
        (
            "ovsdino pseudo-masks --source labels --photos photos --labels labels --names names.txt "
            "--out masks"
        ),
    ),
)
@click.option(
    "--photos",
    type=FOLDER,
    required=True,
    metavar="DIR",
    help="Folder of the photos; subfolders are included.",
)
@click.option("--captions", type=FOLDER, metavar="FILE", help="Their captions, in COCO's format.")
@click.option(
    "--out",
    type=FOLDER,
    required=True,
    metavar="DIR",
    help="Folder of the shards; an earlier run in it is continued.",
)
@click.option(
    "--source",
    type=click.Choice(["grounded-sam", "segmenters", "labels", "sets"]),
    default="grounded-sam",
    show_default=True,
    help="Grounding DINO and SAM (OVS-DINO's), segmenters of fixed vocabularies (nano's first masks), label "
    "maps of one set (dinov3.seg's COCO-Stuff), or of several sets (nano's true masks).",
)
@click.option(
    "--detector",
    default="IDEA-Research/grounding-dino-tiny",
    show_default=True,
    metavar="DIR|NAME",
    help="Grounding DINO: a folder, or a name in the Hugging Face hub's cache.",
)
@click.option(
    "--sam", type=FOLDER, default=Path("sam_vit_h_4b8939.pth"), show_default=True, metavar="FILE",
    help="SAM's checkpoint, of any size.",
)  # fmt: skip
@click.option("--box-threshold", type=SHARE, default=0.25, show_default=True, help="Least score of a box.")
@click.option(
    "--text-threshold",
    type=SHARE,
    default=0.20,
    show_default=True,
    help="Least score of each token of a noun.",
)
@click.option(
    "--nms-iou",
    type=SHARE,
    default=0.5,
    show_default=True,
    help="Largest overlap (IoU) of two boxes that are kept.",
)
@click.option(
    "--selection",
    type=click.Choice(["noun", "script"]),
    default="noun",
    show_default=True,
    help="Which boxes stay: noun asks all tokens of a noun and suppresses overlaps noun by noun "
    "(reconstructed); script is Grounded-Segment-Anything's rule: any token, overlaps across all names.",
)
@click.option(
    "--min-area",
    type=SHARE,
    default=0.001,
    show_default=True,
    help="Share of the photo below which masks are dropped.",
)
@click.option(
    "--min-captions",
    type=COUNT,
    default=100,
    show_default=True,
    help="Least number of captions that contain a noun.",
)
@click.option("--nltk-data", type=FOLDER, metavar="DIR", help="NLTK's tagger and WordNet, if elsewhere.")
@click.option(
    "--wordnet", type=FOLDER, metavar="FILE", help="Open English WordNet in YAML instead of NLTK's."
)
@click.option("--teachers", type=FOLDER, metavar="DIR", help="The segmenters' TFLite files and word lists.")
@click.option(
    "--concepts", type=FOLDER, metavar="FILE", help="File with the meaning of the segmenters' labels."
)
@click.option("--lvis", type=FOLDER, metavar="FILE", help="LVIS's categories, for more words of captions.")
@click.option("--classifier", type=FOLDER, metavar="FILE", help="ViT-Ti/16, to name boxes with finer words.")
@click.option("--labels", type=FOLDER, metavar="DIR", help="Label maps, one PNG per photo.")
@click.option(
    "--names", type=FOLDER, metavar="FILE", help="Classes of the label values, one per line, from 0."
)
@click.option(
    "--sets",
    type=FOLDER,
    metavar="FILE",
    help="Which folders below --photos are labelled sets, and what their names mean.",
)
@click.option(
    "--join", multiple=True, metavar="FOLDER=MASKS",
    help="With --source sets: add finished masks of the photos in FOLDER below --photos. May be repeated.",
)  # fmt: skip
@click.option(
    "--max-photos", type=COUNT, metavar="N", help="Take only N photos, evenly spread over the folder."
)
@click.option("--shard-size", type=COUNT, default=64, show_default=True, help="Photos per shard.")
@click.option(
    "--sheet", type=click.IntRange(min=0), default=12, show_default=True, help="Samples in the contact sheet."
)
@click.option("--device", metavar="NAME", help="cpu, cuda, cuda:1, ...  [default: cuda where there is one]")
@click.option("--ray", metavar="ADDRESS", help="Ray cluster that sees the same paths; `local` starts one.")
@click.option("--workers", type=COUNT, default=1, show_default=True, help="Ray workers, with a GPU each.")
def pseudo_masks(**options: Any) -> None:  # noqa: ANN401 - whole to Request, which names and types them
    """Make the pseudo-masks that `ovsdino train` learns from.

    Run the same command again to resume after a kill.
    """
    smaller = "give a smaller --sam or --detector, or fewer --workers"
    with user_errors("this", extra=lambda name: "cluster" if name == "ray" else "masks", smaller=smaller):
        from ovsdino.masks.options import MaskOptions

        run(MaskOptions(**options))


def run(request: MaskOptions) -> None:
    """Plan the job, make the masks, and print a summary."""
    from ovsdino.masks.plan import plan
    from ovsdino.masks.progress import counting, working

    with counting("captions") as advance:
        made = plan(request, advance)
    for note in made.notes:
        click.echo(note, err=True)
    with working() as (begin, done):
        made.run(begin, done)
    for line in made.summary():
        click.echo(line)
