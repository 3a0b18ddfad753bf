"""Write the folder of a Gradio Space: the demo page, run by the Hugging Face Hub."""

import shutil
from importlib import metadata
from pathlib import Path

from ovsdino_runtime.base.atomic import write_whole
from ovsdino_runtime.base.errors import OutputError

HUB = "https://huggingface.co"  # shows a Space in a frame of its own page
README = """---
title: {title}
emoji: 🧩
colorFrom: gray
colorTo: red
sdk: gradio
sdk_version: {gradio}
app_file: app.py
pinned: false
---

Segment a photo into classes that you name. Model: {model}. Photos stay in the Space's memory for an hour at
most. Made by `ovsdino demo --space`.
"""
APP = '''"""The demo page of ovsdino. Try it here: python app.py"""

import os
from pathlib import Path

from ovsdino.cli import main

os.chdir(Path(__file__).resolve().parent)
PORT = os.environ.get("GRADIO_SERVER_PORT", "7860")
if __name__ == "__main__":
    main(["demo", "--model", {model!r}, "--host", "0.0.0.0", "--port", PORT, "--embed-in", {hub!r}])
'''


def write_space(folder: Path, *, model: str, package: str) -> tuple[Path, ...]:
    """Write the Space's README, program and requirements, and the model where it is a bundle of your own.

    Args:
        folder: a new folder, or an empty one.
        model: a packaged model's name, one on the Hub, or the path of a bundle, which is copied.
        package: what pip installs there, such as ``ovsdino[cpu,demo] @ git+https://...``.

    Raises:
        OutputError: the folder has files, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: not an empty folder; choose another for the Space")
    bundle = Path(model)
    name = bundle.name if bundle.is_dir() else model
    about = {"title": f"ovsdino {Path(name).stem}", "gradio": metadata.version("gradio"), "model": name}
    files = {
        "README.md": README.format(**about),
        "app.py": APP.format(model=name, hub=HUB),
        "requirements.txt": package.strip() + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if bundle.is_dir():
            shutil.copytree(bundle, folder / name)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written: {error.strerror}") from error
    for file, text in files.items():
        _write(folder / file, text)
    return tuple(folder / file for file in files)


def _write(path: Path, text: str) -> None:
    write_whole(path, lambda file: file.write(text.encode()))
