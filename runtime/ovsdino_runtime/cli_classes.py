"""The classes of the command line: given once, or line by line on standard input while it runs."""

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Literal

import click

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.stream import Stream
from ovsdino_runtime.text.vocabulary import (
    Vocabulary,
    load_vocabulary,
    parse_classes,
    read_background_classes,
    with_background_classes,
)

Background = float | Literal["none"] | None  # None: as the vocabulary says
STDIN = 0


class Words:
    """The classes of the command line; those of standard input may change while it runs.

    Raises:
        ClassesError: there are none, or they make no valid vocabulary.
    """

    def __init__(
        self,
        classes: str | None,
        vocabulary: str | None,
        background: Background,
        background_classes: str | None = None,
    ) -> None:
        self._lines = _read_lines() if classes == "-" else iter(())
        self._background, self._background_classes = background, background_classes
        first = next(self._lines, "") if classes == "-" else classes
        self.vocabulary, self.threshold = choose_classes(first, vocabulary, background, background_classes)

    def follow(self, stream: Stream) -> None:
        """Give a stream the classes that come."""

        def follow() -> None:
            for line in self._lines:
                try:
                    words, threshold = choose_classes(line, None, self._background, self._background_classes)
                    stream.set_classes(words, background=threshold)
                except ClassesError as error:  # noqa: PERF203 - people type slowly
                    click.echo(f"Error: {error}; the old classes stay", err=True)

        threading.Thread(target=follow, name="classes", daemon=True).start()


def choose_classes(
    classes: str | None, vocabulary: str | None, background: Background, background_classes: str | None = None
) -> tuple[Vocabulary, float | None]:
    """Read the classes and the threshold of the background, as `Segmenter` takes them.

    Raises:
        ClassesError: neither classes nor a vocabulary is given, or both, or they are not valid; or there is
            to be no background and something is to belong to it.
    """
    if (classes is None) == (vocabulary is None):
        raise ClassesError(
            "give either --classes, such as 'cat, grass, sky', or --vocabulary, such as ade150"
        )
    words = load_vocabulary(vocabulary) if vocabulary is not None else parse_classes(classes or "")
    words, threshold = with_background(words, background)
    if background_classes is None:
        return words, threshold
    if background == "none":
        raise ClassesError(
            "--background-classes is what belongs to the background: leave out --background none"
        )
    return with_background_classes(words, read_background_classes(background_classes)), threshold


def with_background(words: Vocabulary, background: Background) -> tuple[Vocabulary, float | None]:
    """Give a vocabulary a background or take it away, and say at which threshold, as `Segmenter` takes it."""
    if background is None:
        return words, None
    return replace(words, background=background != "none"), None if background == "none" else background


def _read_lines() -> Iterator[str]:
    """Read standard input past Python's buffer, whose lock a waiting thread would hold when Python ends."""
    rest = b""
    while block := os.read(STDIN, 4096):
        *lines, rest = (rest + block).split(b"\n")
        yield from (line.decode(errors="replace") for line in lines if line.strip())
    if rest.strip():
        yield rest.decode(errors="replace")
