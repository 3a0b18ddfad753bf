"""Command-line options for reading photos, shared by all commands."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from ovsdino_runtime.base.cli_errors import user_errors


def _split_bands(
    _context: click.Context, _option: click.Parameter, value: str | None
) -> tuple[int, ...] | None:
    from ovsdino_runtime.base.errors import OptionError
    from ovsdino_runtime.base.photo_options import parse_bands

    try:
        return None if value is None else parse_bands(value)
    except OptionError as error:
        raise click.BadParameter(str(error)) from error


OPTIONS = (
    click.option(
        "--bands",
        metavar="N,N,N|N",
        callback=_split_bands,
        help="Which bands of a TIFF are red, green and blue, or which one is grey; the first is 1.",
    ),
    click.option(
        "--bits",
        type=click.IntRange(8, 32),
        help="Bit depth of a 16-bit photo.  [default: as declared, else guessed from the largest value]",
    ),
    click.option("--strict", is_flag=True, help="Reject a JPEG whose last bytes are missing."),
)


def with_photo_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options to a command; it receives them as ``photo_options``, a `PhotoOptions`."""

    @wraps(command)
    def with_options(**given: Any) -> None:  # noqa: ANN401 - click gives each its own type
        with user_errors():
            from ovsdino_runtime.base.photo_options import PhotoOptions

            options = PhotoOptions(**{name: given.pop(name) for name in ("bands", "bits", "strict")})
        command(photo_options=options, **given)

    for option in reversed(OPTIONS):
        with_options = option(with_options)
    return with_options
