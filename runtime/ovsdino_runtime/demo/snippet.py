"""Write what the page did as a program, for who goes on in Python."""

from collections.abc import Sequence
from dataclasses import fields

from ovsdino_runtime.base.options import RuntimeOptions

PROGRAM = """from ovsdino_runtime import Segmenter

segmenter = Segmenter.load({loading})
result = segmenter({question})
print(result)
result.save("overlay.png")
labels = result.labels  # (H, W), {labels}
"""


def python_program(
    model: str,
    options: RuntimeOptions,
    *,
    photo: str,
    words: Sequence[str],
    background: float = 0,
    background_classes: str | None = None,
) -> str:
    """Write a program that segments a photo as the page did.

    Args:
        model: as `Segmenter.load` takes it.
        options: how the model runs; those that differ from the defaults are written.
        photo: the name of its file.
        words: one class each, with ``|`` between its synonyms.
        background: as the page's slider has it; 0 leaves it out.
        background_classes: classes that count as background.
    """
    default = RuntimeOptions()
    changed = {
        field.name: getattr(options, field.name)
        for field in fields(options)
        if field.compare and getattr(options, field.name) != getattr(default, field.name)
    }
    asked: dict[str, object] = {"background": background} if background else {}
    asked |= {"background_classes": background_classes} if background_classes else {}
    first = "0 is the background" if asked or len(words) == 1 else f"0 is {words[0].partition('|')[0]!r}"
    return PROGRAM.format(
        loading=", ".join([repr(model), *(f"{name}={value!r}" for name, value in changed.items())]),
        question=", ".join([repr(photo), repr(list(words)), *(f"{key}={asked[key]!r}" for key in asked)]),
        labels=first,
    )
