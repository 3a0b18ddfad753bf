"""The command ``ovsdino``: a group that imports a verb only when it is called.

``ovsdino --help`` needs only the table below and imports neither torch nor numpy.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module

import click

from ovsdino import __version__


@dataclass(frozen=True, slots=True)
class Verb:
    """A verb: where it is defined, its help text, and the extra that it needs."""

    target: str  # "module:attribute"
    help: str
    extra: str | None = None  # of setup.cfg; None for what the base install can do


VERBS = {
    "analyze": Verb(
        "ovsdino.analysis.cli:analyze", "Analyze image encoders: spectra of layers, CKA.", "analysis"
    ),
    "bench": Verb(
        "ovsdino_benchmarks.cli:bench", "Measure speed and quality, report and compare them.", "bench"
    ),
    "convert": Verb(
        "ovsdino.zoo.cli:convert", "Write an official checkpoint as safetensors, with its licence.", "export"
    ),
    "demo": Verb("ovsdino_runtime.demo.cli:demo", "Serve a page on which to try a model.", "demo"),
    "doctor": Verb("ovsdino_runtime.doctor:doctor", "Check this machine, and say what is wrong."),
    "evaluate": Verb(
        "ovsdino_benchmarks.cli:evaluate", "Measure mIoU and Boundary IoU by a benchmark's protocol.", "bench"
    ),
    "export": Verb(
        "ovsdino_export.cli:export", "Export a model to a bundle that runs without torch.", "export"
    ),
    "models": Verb("ovsdino.zoo.cli:models", "List, fetch and prepare published models."),
    "packs": Verb("ovsdino_runtime.cli:packs", "Add embeddings of packaged vocabularies to a bundle."),
    "pseudo-masks": Verb(
        "ovsdino.masks.cli:pseudo_masks", "Make masks for the words of photos' captions.", "masks"
    ),
    "run": Verb("ovsdino_runtime.cli:run", "Segment photos into classes that you name."),
    "serve": Verb("ovsdino_runtime.serve.cli:serve", "Segment photos over HTTP.", "serve"),
    "train": Verb("ovsdino.training.cli:train", "Train a network on photos with pseudo-masks.", "train"),
    "vocabularies": Verb("ovsdino_runtime.cli:vocabularies", "List the packaged vocabularies, or print one."),
}


class MissingExtraError(click.ClickException):
    """A verb needs a package that is not installed."""

    exit_code = 2


class LazyGroup(click.Group):
    """A click group that lists its verbs without importing them, and imports a verb when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """List the verbs in the order of ``--help``."""
        return sorted(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import one verb; None for an unknown name, which click then reports."""
        verb = VERBS.get(cmd_name)
        if verb is None:
            return None
        try:
            module, _, attribute = verb.target.partition(":")
            command = getattr(import_module(module), attribute)
        except ModuleNotFoundError as error:
            from ovsdino_runtime.base.install import install_command  # here: --help imports no room

            raise MissingExtraError(
                f"`ovsdino {cmd_name}` needs {error.name}, which is not installed: "
                f"{install_command(verb.extra or '')}"
            ) from error
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the verbs and their help from the table."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, VERBS[name].help) for name in self.list_commands(ctx)])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ovsdino")
def main() -> None:
    """Open-vocabulary segmentation: every pixel of a photo gets one of the classes that you name."""
