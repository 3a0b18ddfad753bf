"""Read which labels a labelling interface of Label Studio asks for."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from ovsdino_runtime.base.errors import ClassesError
from ovsdino_runtime.text.class_lists import BACKGROUND_NAMES

Kind = Literal["brushlabels", "polygonlabels", "rectanglelabels"]
KINDS: Mapping[str, Kind] = {
    "BrushLabels": "brushlabels",
    "PolygonLabels": "polygonlabels",
    "RectangleLabels": "rectanglelabels",
}
MAX_CHARACTERS = 1_000_000


@dataclass(frozen=True)
class Control:
    """A tag of the interface whose labels can be predicted.

    Args:
        kind: how a label marks pixels: by a brush, a polygon, or a rectangle.
        name: its name.
        image: name of the ``<Image>`` that it belongs to.
        field: key of the picture's address in a task's data.
        labels: label -> words that describe it: its ``predicted_values``, else itself. A label named
            "background" is left out: it is what gets no label.
    """

    kind: Kind
    name: str
    image: str
    field: str
    labels: Mapping[str, tuple[str, ...]]


def read_labeling_config(text: str) -> list[Control]:
    """Return the tags of a labelling interface that can be predicted.

    Raises:
        ClassesError: the text is not a labelling interface, or has no labels to predict.
    """
    if len(text) > MAX_CHARACTERS or re.search(r"<!(DOCTYPE|ENTITY)", text):
        raise ClassesError("the labelling interface is too long, or declares entities; write plain tags")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ClassesError(f"the labelling interface is not valid XML: {error}") from error
    images = {tag.get("name", ""): tag.get("value", "") for tag in root.iter("Image")}
    controls = list(_find_controls(root, images))
    if not controls:
        wanted = ", ".join(f"<{name}>" for name in KINDS)
        raise ClassesError(
            f"the labelling interface has no labels to predict; expected <Label>s in one of {wanted}, with "
            "toName of an <Image>"
        )
    return controls


def _find_controls(root: ElementTree.Element, images: Mapping[str, str]) -> Iterator[Control]:
    for tag in root.iter():
        name, image = tag.get("name", ""), tag.get("toName", "")
        if tag.tag not in KINDS or not name or not images.get(image, "").startswith("$"):
            continue
        labels = {
            label.get("alias", label.get("value", "")): _words(label)
            for label in tag.iter("Label")
            if label.get("value", "").strip().casefold() not in ("", *BACKGROUND_NAMES)
        }
        if labels:
            yield Control(kind=KINDS[tag.tag], name=name, image=image, field=images[image][1:], labels=labels)


def _words(label: ElementTree.Element) -> tuple[str, ...]:
    words = [word.strip() for word in label.get("predicted_values", "").split(",")]
    return tuple(dict.fromkeys(word for word in words if word)) or (label.get("value", "").strip(),)
