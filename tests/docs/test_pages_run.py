"""The code of README and docs runs, page by page and in order."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_runtime import Segmenter
from ovsdino_runtime.bundle.models import packaged_models
from tests.docs.pages import NAMES, ROOT, SHELL, Command, code_blocks, commands_of, read_page
from tests.docs.programs import OURS, our_command

# What is parsed and not run, and why.
PARSED = {
    r"rtsp://|ovsdino-run 0 ": "needs a camera",
    r"--device cuda|--gpu current|--engine tensorrt |bench (kernels|device)": "needs an NVIDIA GPU",
    r"--web": "needs npm and its registry: tests/web does the same",
    r"--kernels|--engine tensorrt-rtx|--int8|--inline": "takes long: tests/export does the same",
    r"--engine (openvino|auto)": "needs OpenVINO: tests/runtime/test_openvino.py does the same",
    r"bench latency|--out results": "takes minutes: tests/benchmarks does the same",
    r"evaluate .*(VOCdevkit|--data val)|--benchmark": "needs a benchmark's photos",
    r"pseudo-masks|ovsdino train |--checkpoint": "needs photos with captions, weights and hours",
    r"analyze": "needs public weights",
    r"dinov3seg-tiny\.ovs|dinotxt-vitl16": "needs a trained dinov3.seg, or weights",
    r"models (prepare|fetch|push|pull)|convert|talk2dino": "needs public weights and a network",
    r"ovsdino (demo|serve)( |$)": "runs until it is ended: tests/demo and tests/serve do the same",
    r"ovsdino-bench serve|--ray": "needs a server, or Ray: tests/serve does the same",
    r"--topic": "needs a bag: tests/runtime/test_ros_bags.py does the same",
    r"OWNER/NAME": "needs a network: tests/runtime/test_hub.py does the same",
    r"(scene|large)\.tif": "needs the scene: tests/docs/test_aerial.py does the same",
    r"OLD NEW": "compares two results of the reader's",
}
SLOW = {"README.md"}  # exports a model


def why_not(command: Command) -> str | None:
    return next((why for pattern, why in PARSED.items() if re.search(pattern, command.line)), None)


class Robot:
    """Takes down what it is told, and hears new words once."""

    def __init__(self):
        self.notes, self.halts, self.ways = [], 0, []
        self.heard = ["cat, wall"]

    def note(self, error):
        self.notes.append(str(error))

    def halt(self):
        self.halts += 1

    def drive(self, *, towards):
        self.ways.append(towards)

    def words_heard(self):
        return self.heard.pop() if self.heard else ""


CAMERA = '["0"]'
PICTURES = '["examples/beach.jpg", "torn.jpg", "examples/cat.png"]'  # instead of a camera


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """One cache for all pages: a model is proven once a machine."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def reader(tmp_path, monkeypatch, cache):
    """A folder with what a reader of the pages has: the examples, and some photos and a video."""
    monkeypatch.setenv("OVSDINO_CACHE", str(cache))
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    cat = Image.open(ROOT / "examples" / "cat.png").convert("RGB").resize((240, 160))
    for folder in ("photos", "shots", "FOLDER/images", "FOLDER/labels"):
        (tmp_path / folder).mkdir(parents=True)
    for photo in ("photo.jpg", "photos/a.jpg", "photos/b.jpg", "shots/a.jpg", "FOLDER/images/a.jpg"):
        cat.save(tmp_path / photo)
    Image.fromarray(np.tile(np.arange(2, dtype=np.uint8), (160, 120))).save(tmp_path / "FOLDER/labels/a.png")
    (tmp_path / "FOLDER/names.txt").write_text("cat\nwall\n")
    (tmp_path / "words.txt").write_text("forklift\npallet|skid\n")
    (tmp_path / "torn.jpg").write_bytes(b"torn")
    shutil.copytree(packaged_models()["nano"], tmp_path / "my.ovs")
    write_video(tmp_path / "holiday.mp4", np.asarray(cat))


def write_video(path, picture):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt = picture.shape[1], picture.shape[0], "yuv420p"
        for _ in range(2):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def expand(word: str) -> list[str]:
    """Do as a shell does with a pattern that is not quoted; one with spaces was."""
    return sorted(map(str, Path().glob(word))) if "*" in word and " " not in word else [word]


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Bundles by the words of their export: two pages with the same export share its bundle."""
    return {}, tmp_path_factory.mktemp("exports")


def run_export(command: Command, exports: tuple[dict[tuple[str, ...], Path], Path]) -> None:
    made, folder = exports
    bundle = Path("bundles/nano.ovs")
    if kept := made.get(command.words):
        shutil.copytree(kept, bundle)
        return
    run(command)
    made[command.words] = shutil.copytree(bundle, folder / f"{len(made)}.ovs")


def run(command: Command) -> None:
    arguments = [found for word in command.words[1:] for found in expand(word)]
    result = CliRunner().invoke(our_command(command.program), arguments)
    assert result.exit_code == 0, f"{command.line}\n{result.output}\n{result.exception!r}"
    assert result.output


def runnable(page: str, block: str) -> list[Command]:
    return [
        command for command in commands_of(page, block) if command.program in OURS and not why_not(command)
    ]


def has_code(page: str) -> bool:
    blocks = code_blocks(page)
    return any(
        language == "python" or (language in SHELL and runnable(page, code)) for language, code in blocks
    )


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in NAMES if has_code(page)],
)
def test_a_page_runs(page, reader, exports):
    names = {"robot": Robot(), "segmenter": Segmenter.load("nano")}
    for language, code in code_blocks(page):
        if language == "python":
            exec(compile(code.replace(CAMERA, PICTURES), page, "exec"), names)
        elif language in SHELL:
            for command in runnable(page, code):
                if command.line.startswith("ovsdino-export --model nano --fp16 --out bundles"):
                    run_export(command, exports)
                else:
                    run(command)


def test_pages_have_code():
    wanted = {"README.md", "docs/index.md", "docs/start.md", "docs/runtime.md", "docs/robot.md"}
    assert wanted <= set(filter(has_code, NAMES))


def test_the_robots_loop(reader):
    code = code_blocks("docs/robot.md")[1][1]
    assert len(code[code.index("stream =") :].splitlines()) == 10
    assert CAMERA in code
    robot = Robot()
    exec(code.replace(CAMERA, PICTURES), {"robot": robot})
    assert robot.notes == [
        "torn.jpg: not a photo, or of a format that Pillow cannot read; convert it to PNG or JPEG"
    ]
    assert robot.halts + len(robot.ways) == 2
    cat = robot.ways[-1]  # label 0 of the words that it heard
    assert cat.dtype == np.bool_
    assert cat.mean() > 0.2


def test_nothing_is_indented_instead_of_fenced():
    """An indented block would not be found by these tests."""
    for page in NAMES:
        assert not re.findall(rf"^\n {{4}}(?:{'|'.join(OURS)}|pip|python) .*", read_page(page), re.MULTILINE)
