"""The programs that are killed: what each is given, and which command line runs it."""

import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from PIL import Image

from tests.fuzz.workspace import WORDS, Workspace

NAMES = ("red", "green", "blue")
# Imported once by the server from which the processes are forked; a kill then meets work, not imports.
LIGHT = ("onnxruntime", "ovsdino_runtime.cli", "ovsdino_runtime.segmenter", "ovsdino_runtime.text.packs")
HEAVY = ("onnx", "torch", "timm", "ovsdino.training.run.loop", "ovsdino.masks.plan", "ovsdino_export.export")
BENCH = ("ovsdino_benchmarks.quality.evaluate",)


@dataclass(frozen=True)
class Program:
    """A command line, and what it needs.

    Args:
        arguments: of the command, for the folder of inputs and the folder of one case.
        prepare: called before the first run in the folder of a case.
        preload: modules that are imported before.
        exit_code: of a run that nobody kills.
        rounds: the program is killed in every so many rounds.
    """

    arguments: Callable[[Path, Path], list[str]]
    prepare: Callable[[Path, Path], object] = lambda _inputs, _case: None
    preload: tuple[str, ...] = LIGHT
    exit_code: int = 0
    rounds: int = 1  # killed in every so many rounds; more for what takes long


def preload(names: Iterable[str]) -> None:
    """Let the server from which processes are forked import what some programs need; before the first."""
    modules = dict.fromkeys(module for name in names for module in PROGRAMS[name].preload)
    get_context("forkserver").set_forkserver_preload(list(modules))


def start(program: Program, inputs: Path, case: Path) -> BaseProcess:
    """Run a program in a process of its own, which leads a session."""
    context = get_context("forkserver")
    for name in ("cache", "tmp"):
        (case / name).mkdir(parents=True, exist_ok=True)
    process = context.Process(target=_run, args=(program.arguments(inputs, case), case))
    process.start()
    return process


def _run(arguments: list[str], case: Path) -> None:
    os.setsid()
    os.environ |= {
        "OVSDINO_CACHE": str(case / "cache"),
        "TMPDIR": str(case / "tmp"),
        "RAY_AUTH_MODE": "disabled",
        "OMP_NUM_THREADS": "1",
    }
    tempfile.tempdir = None
    with (case / "said.txt").open("w") as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(1)
        _know_tiny_networks()
    from ovsdino.cli import main

    main(arguments)


def _know_tiny_networks() -> None:
    from ovsdino.network import config
    from ovsdino.training import recipe
    from tests.training.tiny_run import TINY, tiny_recipe

    config.PRESETS["tiny"] = TINY
    recipe.RECIPES["tiny"] = tiny_recipe()


def make_inputs(folder: Path, *, networks: bool) -> None:
    """Write what the programs read: models, photos, labels, words, and weights where they are wanted."""
    Workspace(folder).bundle  # noqa: B018 - it is written when it is asked for
    random = np.random.default_rng(0)
    for kind in ("photos", "set/images", "set/labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(8):
        pixels = random.choice(np.array([0, 255], np.uint8), (6, 8, 3))
        photo = Image.fromarray(pixels).resize((192, 144), Image.Resampling.NEAREST)
        photo.save(folder / "photos" / f"{number}.png")
        photo.save(folder / "set" / "images" / f"{number}.png")
        labels = random.integers(0, len(NAMES), (6, 8)).astype(np.uint8)
        Image.fromarray(labels).resize((192, 144), Image.Resampling.NEAREST).save(
            folder / "set" / "labels" / f"{number}.png"
        )
    (folder / "set" / "names.txt").write_text("\n".join(NAMES) + "\n")
    (folder / "words.txt").write_text("\n".join(f"thing {number}" for number in range(3000)))
    if networks:
        from ovsdino.network.checkpoint import save_model
        from ovsdino.network.model import OVSDINO
        from tests.training.tiny_run import TINY, make_data

        make_data(folder / "training")
        save_model(OVSDINO(TINY), folder / "start.safetensors")


def _photos(inputs: Path, case: Path) -> list[str]:
    kinds = "overlay,labels,json,rle,geojson,coco,yolo,labelme,voc"
    model = ["--model", str(inputs / "tiny.ovs"), "--threads", "1", "--classes", WORDS]
    return ["run", str(inputs / "photos"), *model, "--save", kinds, "--out", str(case / "out")]


def _prefetch(inputs: Path, case: Path) -> list[str]:
    model = ["--model", str(inputs / "tiny.ovs"), "--threads", "1"]
    return ["run", "--prefetch", str(inputs / "words.txt"), *model]


def _copy_bundle(inputs: Path, case: Path) -> None:
    import shutil

    shutil.copytree(inputs / "tiny.ovs", case / "out" / "my.ovs")


def _packs(inputs: Path, case: Path) -> list[str]:
    return ["packs", "ade150", "voc21", "--model", str(case / "out" / "my.ovs")]


def _export(inputs: Path, case: Path) -> list[str]:
    weights = ["--model", "tiny", "--checkpoint", str(inputs / "start.safetensors"), "--fp16"]
    return ["export", *weights, "--kernels", "none", "--out", str(case / "out")]


def _masks(inputs: Path, case: Path) -> list[str]:
    data = ["--photos", str(inputs / "set/images"), "--labels", str(inputs / "set/labels")]
    words = ["--source", "labels", "--names", str(inputs / "set/names.txt"), "--shard-size", "2"]
    return ["pseudo-masks", *data, *words, "--out", str(case / "out")]


def _train(inputs: Path, case: Path) -> list[str]:
    data = [part for name in ("photos", "masks") for part in (f"--{name}", str(inputs / "training" / name))]
    options = ["--preset", "tiny", "--init", str(inputs / "start.safetensors"), "--workers", "0"]
    return ["train", *data, *options, "--device", "cpu", "--out", str(case / "out")]


def _evaluate(inputs: Path, case: Path) -> list[str]:
    model = ["--model", str(inputs / "tiny.ovs"), "--protocol", "model", "--threads", "1"]
    return ["evaluate", "--data", str(inputs / "set"), *model, "--out", str(case / "out")]


def _ray(inputs: Path, case: Path) -> list[str]:
    return [*_photos(inputs, case), "--save", "labels,json", "--ray", "local", "--workers", "1"]


PROGRAMS: Mapping[str, Program] = {
    "run": Program(_photos),
    "packs": Program(_packs, prepare=_copy_bundle),
    "prefetch": Program(_prefetch),
    "evaluate": Program(_evaluate, preload=(*LIGHT, *BENCH)),
    "masks": Program(_masks, preload=(*LIGHT, *BENCH, *HEAVY)),
    "train": Program(_train, preload=(*LIGHT, *BENCH, *HEAVY)),
    "export": Program(_export, preload=(*LIGHT, *BENCH, *HEAVY), rounds=6),
    "ray": Program(_ray, rounds=6),
}
NETWORKS = ("masks", "train", "export")  # of these, the ones that need torch
