"""Help of commands: options in groups, examples, and ``--version``; plain click."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import click

from ovsdino_runtime.base.version import version

CONTEXT = {"help_option_names": ["-h", "--help"]}
Command = TypeVar("Command", bound=Callable[..., Any])

INPUTS = "Inputs"
CLASSES = "Classes"
MODEL = "Model"
TRAINING = "Training"
OUTPUT = "Output"
SPEED = "Speed"
OTHER = "Other options"
# The group of each option, by the name of its parameter: the same in every command.
GROUPS: Mapping[str, Sequence[str]] = {
    INPUTS: (
        *(
            "photos",
            "photo",
            "captions",
            "data",
            "benchmarks",
            "ignore",
            "reduce_zero_label",
            "labels",
            "names",
        ),
        *("sets", "join", "lvis", "concepts", "nltk_data", "wordnet", "masks", "validate", "shares", "sizes"),
        *("int8_data", "limit", "max_photos", "min_captions", "bands", "bits", "strict", "topic", "url"),
        *("example", "nodata"),
    ),
    CLASSES: (
        *("classes", "vocabulary", "background", "background_classes", "templates", "prefetch"),
        *("class_counts", "max_classes", "distractors", "listed_distractors"),
    ),
    MODEL: (
        *("model", "checkpoint", "text_checkpoint", "preset", "variant", "init", "text", "sam", "anyup"),
        *("inference", "short_side", "forms", "form", "protocol", "source", "detector", "teachers"),
        *("classifier", "box_threshold", "text_threshold", "nms_iou", "bundle", "encoders", "encoder"),
        *("first", "second", "last", "layers", "bins", "cutoff", "centred", "kernels", "kernel", "revision"),
        *("refine", "min_area", "presence", "inline", "selection"),
    ),
    TRAINING: (
        *(
            "epochs",
            "steps",
            "batch",
            "micro_batch",
            "phases",
            "warmup",
            "average",
            "losses",
            "seed",
            "crops",
        ),
        *("sam_cache", "resume", "save_every", "rate"),
    ),
    OUTPUT: (
        *(
            "out",
            "name",
            "save",
            "quiet",
            "trace",
            "gallery",
            "overwrite",
            "serve_repository",
            "shard_size",
            "sheet",
        ),
        *("format", "host", "port", "access_log", "licence", "private", "folder", "max_slowdown"),
        *("max_miou_drop", "open_page", "ready", "web", "web_runtime", "space"),
    ),
    SPEED: (
        *("device", "engine", "threads", "precision", "precisions", "ray", "workers", "queue", "seconds"),
        *(
            "megabytes",
            "megapixels",
            "fp16",
            "bf16",
            "int8",
            "gpu",
            "graphs",
            "workspace",
            "list_engines",
            "clear_engines",
        ),
        *("clients", "repeats", "dtypes", "batches", "compiled", "baselines", "quantize"),
    ),
}


class GroupedCommand(click.Command):
    """A command whose help has its options in groups, and examples.

    Args:
        examples: command lines, each followed by two spaces, ``#`` and its purpose.
        groups: parameter name -> group, where it differs from `GROUPS`.
        arguments, options: see `click.Command`.
    """

    def __init__(
        self,
        *arguments: Any,  # noqa: ANN401 - forwarded to click
        examples: Sequence[str] = (),
        groups: Mapping[str, Sequence[str]] | None = None,
        **options: Any,  # noqa: ANN401 - forwarded to click
    ) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)
        self._groups = {**GROUPS, **(groups or {})}

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options group by group, in the order in which they were declared."""
        rows: dict[str, list[tuple[str, str]]] = {group: [] for group in (*self._groups, OTHER)}
        for parameter in self.get_params(ctx):
            if isinstance(parameter, click.Option) and (record := parameter.get_help_record(ctx)):
                rows[self.group_of(parameter)].append(record)
        for group, records in rows.items():
            if records:
                with formatter.section(group):
                    formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples."""
        super().format_epilog(ctx, formatter)
        if self.examples:
            with formatter.section("Examples"):
                indent = " " * formatter.current_indent
                formatter.write("".join(f"{indent}{line}\n" for line in self.examples))

    def group_of(self, parameter: click.Parameter) -> str:
        """Return the name of an option's group."""
        matches = [group for group, names in self._groups.items() if parameter.name in names]
        return matches[-1] if matches else OTHER


def version_option(program: str) -> Callable[[Command], Command]:
    """Add ``--version`` to a command.

    Args:
        program: the command's name, as it is printed.
    """

    def show(context: click.Context, _option: click.Parameter, asked: bool) -> None:
        if asked and not context.resilient_parsing:
            click.echo(f"{program}, version {version()}")
            context.exit()

    return click.option(
        "--version", is_flag=True, is_eager=True, expose_value=False, callback=show, help="Show the version."
    )
