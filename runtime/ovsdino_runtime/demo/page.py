"""The demo page: its layout, and the function that Gradio calls when an input changes."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from ovsdino_runtime.base.errors import ClassesError, OvsdinoError, PhotoError
from ovsdino_runtime.demo.responses import Responder, split_words
from ovsdino_runtime.text.vocabulary import load_vocabulary, vocabulary_names

LOG = logging.getLogger(__name__)
WAITING = 32  # requests in the queue; more are rejected
CLEANED, FORGOTTEN = 300, 3600  # [s] interval at which old uploads are deleted, and their age
FIRST_WORDS = (  # for a street as well as a room
    *("person", "animal", "vehicle|car|bus|truck", "building|house", "wall", "floor"),
    *("furniture|table|sofa|bed|cabinet", "road", "tree|plant", "grass", "sky", "water"),
)
EXAMPLES = {
    "beach.jpg": ("person", "horse", "sand", "sea", "rock"),
    "street.jpg": ("road", "car", "bus", "building", "person", "tree", "grass"),
    "lighthouse.jpg": ("lighthouse", "house", "grass", "rock", "sea", "sky", "fence"),
    "parrots.jpg": ("parrot", "plant"),
    "cat.jpg": ("cat", "sofa|couch|blanket"),
}
SURROUNDINGS = "surroundings"  # a packaged vocabulary
EMPTY = "Choose a photo, or take one, to segment it here. Or start with an example below."
FAULT = "An error occurred in the server, not in your photo or words. See the log of `ovsdino demo`."


def build_page(responder: Responder) -> gr.Blocks:
    """Build the page; `server` serves it."""
    page = gr.Blocks(
        title="ovsdino", analytics_enabled=False, delete_cache=(CLEANED, FORGOTTEN), fill_width=True
    )

    def ask(  # noqa: PLR0917 - Gradio passes inputs by position
        file: object, chips: object, threshold: object, around: object
    ) -> tuple[Any, dict[str, Any]]:
        return answer(
            responder, file, chips=chips, threshold=threshold, around=around, uploads=Path(photo.GRADIO_CACHE)
        )

    with page:
        gr.Markdown("# ovsdino\nSegment a photo into classes that you name.", elem_id="heading")
        with gr.Row(elem_id="layout"):  # in the order of a phone; page.css puts them side by side
            with gr.Column(elem_id="ask"):
                photo = _photo()
            with gr.Column(elem_id="result"):
                view = _view()
            with gr.Column(elem_id="settings"):
                words, background, around = _words(), _background(), _around()
        examples = gr.Dataset(
            components=[photo],
            samples=[[str(asset_path(name))] for name in EXAMPLES],
            label="Examples",
            type="index",
            elem_id="examples",
        )
        gr.on(
            [photo.change, words.change, background.change, around.change],
            ask,
            [photo, words, background, around],
            [words, view],
            preprocess=False,  # we reject a broken photo ourselves, with a message
            show_progress="minimal",
            show_progress_on=view,
            trigger_mode="always_last",
            concurrency_limit=1,
            api_name="ask",
            api_visibility="undocumented",
        )
        examples.click(_example, [examples], [photo, words], show_progress="hidden", api_visibility="private")
    page.queue(max_size=WAITING, api_open=False)
    return page


def asset_path(name: str) -> Path:
    """Return the path of a packaged file of the page."""
    return Path(str(resources.files("ovsdino_runtime") / "demo" / "assets" / name))


def read_asset(name: str) -> str:
    """Read a packaged text file of the page."""
    return asset_path(name).read_text(encoding="utf-8")


def answer(
    responder: Responder, file: object, *, chips: object, threshold: object, around: object, uploads: Path
) -> tuple[Any, dict[str, Any]]:
    """Return the chips if they change, and the data of the view: a segmentation, a message or an error.

    Args:
        responder: answers valid requests.
        file, chips, threshold, around: as the browser sends them; may be anything.
        uploads: folder of the uploaded photos; no other file is opened.
    """
    new_chips: Any = gr.skip()
    try:
        words = split_words(chips if isinstance(chips, list) else [])
        new_chips = words if words != chips else new_chips
        background_classes = SURROUNDINGS if around is True else None
        return new_chips, _respond(
            responder,
            _uploaded(file, uploads),
            words=words,
            threshold=threshold,
            background_classes=background_classes,
        )
    except OvsdinoError as error:
        return new_chips, {"error": str(error)}
    except Exception:  # no traceback reaches the page, whatever went wrong
        LOG.exception("a request failed")
        return new_chips, {"error": FAULT}


def _uploaded(file: object, uploads: Path) -> Path | None:
    if file is None:
        return None
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(uploads.resolve()):
        raise PhotoError("expected an uploaded photo")
    return Path(path)


def _respond(
    responder: Responder,
    file: Path | None,
    *,
    words: list[str],
    threshold: object,
    background_classes: str | None,
) -> dict[str, Any]:
    if file is None:
        return {"message": EMPTY}
    if not isinstance(threshold, int | float):
        raise ClassesError(f"the background's threshold must be in 0..1, got {threshold!r}")
    return {
        "answer": asdict(responder(file, words, background=threshold, background_classes=background_classes))
    }


def _photo() -> gr.Image:
    return gr.Image(
        label="Photo",
        type="filepath",
        sources=["upload", "webcam", "clipboard"],
        buttons=[],
        height=280,
        elem_id="photo",
    )


def _words() -> gr.Dropdown:
    return gr.Dropdown(
        _suggestions(),
        value=list(FIRST_WORDS),
        multiselect=True,
        allow_custom_value=True,
        label="Words",
        info="Any words: Enter ends one, commas separate several. cat|kitten is one class with two words.",
        elem_id="words",
    )


def _background() -> gr.Slider:
    return gr.Slider(
        0,
        1,
        0,
        step=0.01,
        label="Background",
        info="Pixels with a lower confidence get no class. 0: every pixel gets one (a single word: 0.2).",
        elem_id="background",
    )


def _around() -> gr.Checkbox:
    return gr.Checkbox(
        False,
        label="Only the words",
        info="Sky, walls, ground and other surroundings count as background, unless they are words.",
        elem_id="around",
    )


def _view() -> gr.HTML:
    """Build the view, in which the packaged JavaScript draws the response."""
    return gr.HTML(
        {"message": EMPTY},
        html_template=read_asset("view.html"),
        css_template=read_asset("view.css"),
        js_on_load=read_asset("view.js"),
        elem_id="view",
    )


def _example(index: int) -> tuple[str, list[str]]:
    """Return the photo and words of an example."""
    name, words = list(EXAMPLES.items())[index]
    return str(asset_path(name)), list(words)


def _suggestions() -> Sequence[str]:
    """Return suggestions for words: the class names of the packaged vocabularies."""
    names = (words[0] for name in vocabulary_names() for words in load_vocabulary(name).classes)
    return sorted(set(names), key=str.casefold)
