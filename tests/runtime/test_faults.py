"""What must not happen, made to happen: a clear message, and nothing is left behind."""

import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import ovsdino_runtime
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.frames import Frame, Source
from ovsdino_runtime.bundle.bundle import write_bundle
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.stream import Stream

SOURCE = Path(ovsdino_runtime.__file__).parents[1]
COLOURS = "red, green, blue"


@pytest.fixture
def fragile(staging, manifest, tmp_path):
    """The tiny bundle, but a pure white photo makes its vision graph fail: it looks beyond a table's end."""
    folder = shutil.copytree(staging, tmp_path / "staging")
    model = onnx.load(folder / "vision.onnx")
    graph = model.graph
    graph.node[-1].output[0] = "unit"
    nodes = [
        helper.make_node("ReduceMin", ["pixels"], ["darkest"], keepdims=0),  # 1 where all is white
        helper.make_node("Floor", ["darkest"], ["whole"]),
        helper.make_node("Max", ["whole", "zero"], ["place"]),
        helper.make_node("Cast", ["place"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["factor"]),
        helper.make_node("Mul", ["unit", "factor"], ["features"]),
    ]
    graph.node.extend(nodes)
    graph.initializer.append(numpy_helper.from_array(np.float32([1.0]), "table"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0), "zero"))
    onnx.checker.check_model(model)
    onnx.save(model, folder / "vision.onnx")
    return write_bundle(tmp_path / "fragile.ovs", manifest, folder)


def frames(*photos):
    for index, photo in enumerate(photos):
        yield Frame(Source("photo", f"{index}.png"), photo, index=index)


def test_an_engine_that_fails_mid_run_says_so_and_can_be_used_again(fragile, flag):
    segmenter = Segmenter.load(fragile.path, threads=1)
    segmenter(flag, COLOURS)
    before = threading.active_count()
    white = np.full((90, 150, 3), 255, np.uint8)
    results = iter(Stream(segmenter, frames(flag, white, flag), classes=COLOURS))
    expected = next(results).segmentation
    with pytest.raises(
        EngineError, match=r"ONNX Runtime .* it failed while it ran: .*indices element out of"
    ):
        next(results)
    deadline = time.monotonic() + 120
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before
    np.testing.assert_array_equal(segmenter(flag, COLOURS).labels, expected.labels)


def test_a_text_graph_that_fails_is_not_remembered(shared_bundle, flag, monkeypatch):
    segmenter = Segmenter.load(shared_bundle.path, threads=1)

    def fail(*_):
        raise EngineError("no memory for text")

    with monkeypatch.context() as patch:
        patch.setattr(segmenter._text, "encode_classes", fail)
        with pytest.raises(EngineError, match="no memory for text"):
            segmenter(flag, COLOURS)
    assert set(segmenter(flag, COLOURS).coverage()) == {"red", "green", "blue"}


def test_pictures_of_changing_size_follow_each_other(shared_bundle, flag):
    sizes = [(90, 150), (1, 1), (40, 20000), (700, 3), (90, 150)]
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    photos = [np.asarray(Image.fromarray(flag).resize(size[::-1])) for size in sizes]
    results = list(Stream(segmenter, frames(*photos), classes=COLOURS))
    assert [result.segmentation.labels.shape for result in results] == sizes
    panorama = results[2].segmentation.labels
    assert [int(panorama[20, x]) for x in (2000, 10_000, 18_000)] == [0, 1, 2]
    np.testing.assert_array_equal(results[0].segmentation.labels, results[4].segmentation.labels)


def test_a_photo_without_room_in_memory_does_not_stop_the_others(shared_bundle, flag, monkeypatch):
    segmenter = Segmenter.load(shared_bundle.path, threads=1)
    real = segmenter.pipeline.label

    def label(photo, *arguments, **options):
        if photo.shape[0] == 50:
            np.empty(1 << 60, np.uint8)  # numpy refuses this anywhere
        return real(photo, *arguments, **options)

    monkeypatch.setattr(segmenter.pipeline, "label", label)
    big, good = Stream(segmenter, frames(flag[:50], flag), classes=COLOURS)
    assert "0.png: too little memory for 150x50 px; scale it down first" in str(big.error)
    assert good.segmentation is not None


FULL_DISK = """
import resource, sys
from ovsdino_runtime.cli import run
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
run(sys.argv[2:])
"""


def run_on_full_disk(room, *arguments):
    """Run the command where no file can be larger than ``room`` bytes."""
    return subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(room), *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(SOURCE)},
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of this kind")
def test_a_full_disk_under_the_text_cache_costs_only_the_cache(shared_bundle, flag_file, tmp_path, cache):
    words = tmp_path / "words.txt"
    words.write_text("\n".join(f"word{i}" for i in range(300)))
    options = ["--classes", f"@{words}", "--model", shared_bundle.path, "--threads", 1, "--save", "labels"]
    done = run_on_full_disk(8192, flag_file, *options, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "going on without the text cache" in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "out" / "flag_labels.png").exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no limit of this kind")
def test_a_full_disk_under_the_results_is_refused_without_half_a_file(shared_bundle, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    options = ["--classes", "red", "--model", shared_bundle.path, "--threads", 1, "--out", tmp_path / "out"]
    done = run_on_full_disk(30_000, tmp_path / "noise.png", *options)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line == f"Error: {tmp_path / 'out' / 'noise_overlay.png'}: cannot be written: File too large"
    assert not list((tmp_path / "out").iterdir())
