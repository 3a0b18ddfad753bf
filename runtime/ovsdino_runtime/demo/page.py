"""The page: where things are, and what happens when one changes."""

import logging
from collections.abc import Sequence
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import Any

import gradio as gr

from ovsdino_runtime.base.errors import ClassesError, OvsdinoError, PhotoError
from ovsdino_runtime.demo.responses import Answers, split_words
from ovsdino_runtime.text.vocabulary import load_vocabulary, vocabulary_names

LOG = logging.getLogger(__name__)
WAITING = 32  # questions; more are refused
CLEANED, FORGOTTEN = 300, 3600  # [s] how often old uploads are deleted, and how old they are then
FIRST_WORDS = ("person", "animal", "building", "road", "tree", "grass", "sky", "water", "sand")
EXAMPLES = {
    "beach.jpg": ("person", "horse", "sand", "sea", "rock"),
    "street.jpg": ("road", "car", "building", "sky", "person", "tree"),
    "lighthouse.jpg": ("lighthouse", "house", "grass", "rock", "sea", "sky", "fence"),
    "parrots.jpg": ("parrot", "plant"),
    "cat.jpg": ("cat", "sofa|couch|blanket"),
}
SURROUNDINGS = "surroundings"  # a packaged vocabulary
EMPTY = "Choose a photo, or take one, and it is named here. The examples below are a start."
FAULT = "Something went wrong here, not with your photo or words. The log of `ovsdino demo` says what."


def build_page(answers: Answers) -> gr.Blocks:
    """Lay the page out; `server` serves it."""
    page = gr.Blocks(
        title="ovsdino", analytics_enabled=False, delete_cache=(CLEANED, FORGOTTEN), fill_width=True
    )

    def ask(file: object, chips: object, threshold: object, around: object) -> tuple[Any, dict[str, Any]]:
        return answer(answers, file, chips, threshold, around, uploads=Path(photo.GRADIO_CACHE))

    with page:
        gr.Markdown("# ovsdino\nName every pixel of a photo with words of your choice.", elem_id="heading")
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                photo, words, background, around = _photo(), _words(), _background(), _around()
            with gr.Column(scale=3, min_width=320):
                view = _view()
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
            preprocess=False,  # a broken photo is refused by us, in words
            show_progress="hidden",
            trigger_mode="always_last",
            concurrency_limit=1,
            api_name="ask",
            api_visibility="undocumented",
        )
        examples.click(_example, [examples], [photo, words], show_progress="hidden", api_visibility="private")
    page.queue(max_size=WAITING, api_open=False)
    return page


def asset_path(name: str) -> Path:
    """Find a file that comes with the page."""
    return Path(str(resources.files("ovsdino_runtime") / "demo" / "assets" / name))


def read_asset(name: str) -> str:
    """Read a file that comes with the page."""
    return asset_path(name).read_text(encoding="utf-8")


def answer(
    answers: Answers, file: object, chips: object, threshold: object, around: object, *, uploads: Path
) -> tuple[Any, dict[str, Any]]:
    """Give the chips where they change, and what the view shows: an answer, a message or an error.

    Args:
        answers: to questions that are asked well.
        file, chips, threshold, around: as the browser sends them, which may be anything.
        uploads: the folder of the photos that were uploaded; no other file is opened.
    """
    parted: Any = gr.skip()
    try:
        words = split_words(chips if isinstance(chips, list) else [])
        parted = words if words != chips else parted
        background_classes = SURROUNDINGS if around is True else None
        return parted, _question(answers, _uploaded(file, uploads), words, threshold, background_classes)
    except OvsdinoError as error:
        return parted, {"error": str(error)}
    except Exception:  # no traceback reaches the page, whatever went wrong
        LOG.exception("a question was not answered")
        return parted, {"error": FAULT}


def _uploaded(file: object, uploads: Path) -> Path | None:
    if file is None:
        return None
    path = file.get("path") if isinstance(file, dict) else None
    if not isinstance(path, str) or not Path(path).resolve().is_relative_to(uploads.resolve()):
        raise PhotoError("expected a photo that was uploaded")
    return Path(path)


def _question(
    answers: Answers, file: Path | None, words: list[str], threshold: object, background_classes: str | None
) -> dict[str, Any]:
    if file is None:
        return {"message": EMPTY}
    if not isinstance(threshold, int | float):
        raise ClassesError(f"the background's threshold must be in 0..1, got {threshold!r}")
    return {"answer": asdict(answers(file, words, threshold, background_classes))}


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
        info="Any words. Enter ends one, commas part many; cat|kitten is one thing by two words.",
        elem_id="words",
    )


def _background() -> gr.Slider:
    return gr.Slider(
        0,
        1,
        0,
        step=0.01,
        label="Background",
        info="Less sure pixels are none of the words. 0: every pixel is one; of one word alone 0.2.",
        elem_id="background",
    )


def _around() -> gr.Checkbox:
    return gr.Checkbox(
        False,
        label="Only the words",
        info="Sky, walls, ground and the like around them are background, unless they are words.",
        elem_id="around",
    )


def _view() -> gr.HTML:
    """Make the place where answers are drawn, by the assets' JavaScript."""
    return gr.HTML(
        {"message": EMPTY},
        html_template=read_asset("view.html"),
        css_template=read_asset("view.css"),
        js_on_load=read_asset("view.js"),
        elem_id="view",
    )


def _example(index: int) -> tuple[str, list[str]]:
    """Give an example's photo and words."""
    name, words = list(EXAMPLES.items())[index]
    return str(asset_path(name)), list(words)


def _suggestions() -> Sequence[str]:
    """Offer the packaged vocabularies' names; any other word does as well."""
    names = (words[0] for name in vocabulary_names() for words in load_vocabulary(name).classes)
    return sorted(set(names), key=str.casefold)
