"""Classes of the command line: given once, or line by line on standard input while the command runs."""

import os
import threading
from collections.abc import Iterator

import click

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.stream import Stream
from ovsdino_runtime.text.class_files import text_lines
from ovsdino_runtime.text.class_lists import Background, choose_classes
from ovsdino_runtime.text.vocabulary import Vocabulary

STDIN = 0


class CommandClasses:
    """The classes of the command line; those from standard input may change while the command runs.

    Args:
        classes: value of ``--classes``; "-" reads a list from each line of standard input.
        vocabulary: the name of a packaged vocabulary.
        background: confidence below which pixels are background, or "none".
        background_classes: value of ``--background-classes``.

    Raises:
        ClassesError: no classes are given, or they do not form a valid vocabulary.
    """

    def __init__(
        self,
        classes: str | None,
        vocabulary: str | None,
        *,
        background: Background = None,
        background_classes: str | None = None,
    ) -> None:
        self._lines = _read_lines() if classes == "-" else iter(())
        self.background = background
        self._background_classes = background_classes
        first = next(self._lines, "") if classes == "-" else classes
        self.vocabulary = self._choose(first, vocabulary)

    def follow(self, stream: Stream) -> None:
        """Change a stream's classes to each further line of standard input."""

        def follow() -> None:
            for line in self._lines:
                try:
                    stream.set_classes(self._choose(line), background=self.background)
                except ClassesError as error:  # noqa: PERF203 - people type slowly
                    click.echo(f"Error: {error}; the old classes stay", err=True)

        threading.Thread(target=follow, name="classes", daemon=True).start()

    def _choose(self, classes: str | None, vocabulary: str | None = None) -> Vocabulary:
        if (classes is None) == (vocabulary is None):
            raise ClassesError(
                "give either --classes, such as 'cat, grass, sky', or --vocabulary, such as ade150"
            )
        if self.background == "none" and self._background_classes is not None:
            raise ClassesError("--background-classes belong to the background: leave out --background none")
        return choose_classes(
            classes,
            vocabulary,
            background=self.background,
            background_classes=self._background_classes,
        )


def _read_lines() -> Iterator[str]:
    """Yield the lines of standard input, without empty lines and comments.

    It bypasses Python's buffer, because a waiting thread would hold the buffer's lock when Python exits.
    """
    rest = b""
    while block := os.read(STDIN, 4096):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield from text_lines(line.decode(errors="replace"))
    yield from text_lines(rest.decode(errors="replace"))
