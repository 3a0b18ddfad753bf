"""`ovsdino train`: what it is given, and what it says where that cannot work."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from ovsdino.cli import main
from ovsdino.network.checkpoint import save_model
from ovsdino.network.model import OVSDINO
from ovsdino.torch_errors import explain
from ovsdino.training import recipe as recipes
from ovsdino.training.cli import choose_recipe, read_phase, train
from ovsdino.training.recipe import NANO_RECIPE, PAPER, Phase
from ovsdino.training.systems import ovsdino as inputs_module
from ovsdino_runtime.base.errors import OvsdinoError
from tests.training.tiny_run import TINY, make_data, tiny_recipe

NOTHING = {parameter.name: None for parameter in train.params} | {
    "variant": "ours",
    "phases": (),
    "shares": (),
    "losses": (),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("data")
    make_data(path)
    save_model(OVSDINO(TINY), path / "start.safetensors")
    return path


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    monkeypatch.setitem(recipes.RECIPES, "tiny", tiny_recipe())


def run(folder: Path, *options: str, **changes: str):
    named = {name: str(folder / name) for name in ("photos", "masks")} | {"preset": "tiny"}
    named |= {"init": str(folder / "start.safetensors")} | changes
    arguments = [part for name, value in named.items() if value for part in (f"--{name}", value)]
    return CliRunner().invoke(main, ["train", *arguments, "--workers", "0", "--device", "cpu", *options])


def refusal(result) -> str:
    """What was said beside the progress bar, which must be one line."""
    assert result.exit_code == 2, result.output
    lines = [line for line in result.stderr.strip().splitlines() if not line.startswith("train ")]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_run_ends_with_the_command_that_comes_next(folder, tmp_path):
    result = run(folder, out=str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    weights = tmp_path / "out/last.safetensors"
    assert weights.is_file()
    assert f"next: ovsdino-export --model tiny --checkpoint {weights}" in result.stdout
    changed = refusal(run(folder, "--batch", "6", out=str(tmp_path / "out")))
    assert "recipe.phases.0.batch was 4, is 6; give the same ones" in changed
    assert "holds a run already" in refusal(run(folder, "--resume", "no", out=str(tmp_path / "out")))
    assert run(folder, "--resume", "yes", out=str(tmp_path / "out")).exit_code == 0


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ((), {"photos": "nowhere"}, "--photos nowhere: no such folder"),
        ((), {"masks": "nowhere"}, "nowhere: no such folder; give a folder that `ovsdino pseudo-masks` made"),
        ((), {"preset": "huge"}, "--preset huge: unknown, expected one of ovsdino-vitb14, nano"),
        ((), {"init": "nowhere.safetensors"}, "--init nowhere.safetensors: no such file"),
        ((), {"init": ""}, "--init: give the weights to begin with, of vit_tiny_patch16_224"),
        (("--validate", "nowhere"), {}, "nowhere: no such folder; give the data set's folder"),
        (("--variant", "registers"), {}, "tiny has no variant registers"),
        (("--batch", "64"), {}, "12 photos do not fill a batch of 64; give a smaller --batch"),
        (("--phase", "32*2"), {}, r"--phase 32\*2: expected SIZExEPOCHS@BATCH"),
        (("--share", "voc"), {}, "--share voc: expected NAME=NUMBER"),
        (("--share", "voc=-1"), {}, "--share voc=-1: expected NAME=NUMBER"),
        (("--loss", "bce=x"), {}, "--loss bce=x: expected NAME=NUMBER"),
        (("--loss", "focal=1"), {}, "--loss focal=1: unknown term focal, expected one of align_cosine"),
        (("--precision", "fp16"), {}, "--precision fp16 needs a GPU"),
        (("--resume", "yes"), {}, "no state.safetensors in"),
        ((), {"preset": "ovsdino-vitb14"}, "paper aligns with SAM ViT-B: give its weights with --sam FILE"),
        (
            ("--variant", "no-sam"),
            {"preset": "ovsdino-vitb14"},
            "ovsdino-vitb14 needs CLIP ViT-B/16's text encoder",
        ),
    ],
)
def test_bad_input_is_one_line(folder, tmp_path, options, changes, message):
    assert re.search(message, refusal(run(folder, *options, out=str(tmp_path / "out"), **changes)))
    assert not (tmp_path / "out").exists()


def test_an_out_that_is_a_file_is_refused(folder, tmp_path):
    (tmp_path / "out").write_text("")
    assert "out is not a directory; choose another --out" in refusal(run(folder, out=str(tmp_path / "out")))


def test_a_broken_photo_is_named(tmp_path):
    make_data(tmp_path)
    save_model(OVSDINO(TINY), tmp_path / "start.safetensors")
    (tmp_path / "photos/03.png").write_bytes(b"no photo")
    for workers in ("0", "1"):
        line = refusal(run(tmp_path, "--workers", workers, out=str(tmp_path / "out")))
        assert "photos/03.png: not a photo" in line


def test_too_little_memory_is_one_line(folder, tmp_path, monkeypatch):
    def greedy(model, batch, data):
        torch.empty(1 << 60, dtype=torch.uint8)

    monkeypatch.setattr(inputs_module, "loss_terms", greedy)
    assert "too little memory; give a smaller --micro-batch" in refusal(run(folder, out=str(tmp_path)))


def test_a_fault_of_the_program_keeps_its_traceback(folder, tmp_path, monkeypatch):
    def wrong(model, batch, data):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(inputs_module, "loss_terms", wrong)
    result = run(folder, out=str(tmp_path))
    assert result.exit_code == 1
    assert isinstance(result.exception, RuntimeError)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory"), "the GPU has too little memory"),
        (MemoryError(), "too little memory"),
        (
            RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
            "a process that loads photos",
        ),
        (OSError(28, "No space left on device"), "No space left on device"),
        (
            OvsdinoError("Traceback (most recent call last):\n  x\nPhotoError: a.jpg: broken\n"),
            "a.jpg: broken",
        ),
    ],
)
def test_trouble_is_explained(error, line):
    assert line in (explain(error, "give less") or "")


def test_options_change_the_preset():
    paper = choose_recipe(NOTHING | {"preset": "ovsdino-vitb14"})
    assert paper == PAPER
    nano = choose_recipe(NOTHING | {"preset": "nano", "epochs": 20, "batch": 8, "seed": 3})
    assert nano.phases == (
        Phase(size=288, epochs=18, batch=8, micro_batch=8),
        Phase(size=448, epochs=2, batch=8, micro_batch=8),
    )
    assert nano.seed == 3
    assert choose_recipe(NOTHING | {"preset": "nano", "phases": ("320x2@8",)}).phases == (
        Phase(size=320, epochs=2, batch=8, micro_batch=8),
    )
    assert read_phase("448x1@12") == NANO_RECIPE.phases[1]
    assert read_phase("448x150s@12") == Phase(size=448, epochs=0, batch=12, micro_batch=12, steps=150)
    several = choose_recipe(
        NOTHING
        | {
            "preset": "nano",
            "shares": ("voc=0.2", "pseudo/coco/=2"),
            "distractors": 0,
            "listed_distractors": 9,
        }
        | {"warmup": 0.0, "average": 0.9, "losses": ("bce=4", "weak=0"), "rate": 0.5}
    )
    assert several.weights == replace(NANO_RECIPE.weights, bce=4.0, weak=0.0)
    assert several.data.shares == (("voc", 0.2), ("pseudo/coco", 2.0))
    assert (several.data.distractors, several.data.listed_distractors) == (0, 9)
    assert (several.warmup_epochs, several.average) == (0.0, 0.9)
    assert (several.new_rate, several.backbone_rate) == (0.5 * NANO_RECIPE.new_rate, 0.75e-4)
    cached = choose_recipe(NOTHING | {"preset": "ovsdino-vitb14", "sam_cache": Path("c")})
    assert cached.data.crops == 1


def test_a_network_of_other_shape_is_refused_as_a_start(folder, tmp_path):
    start = tmp_path / "other.safetensors"
    save_model(OVSDINO(replace(TINY, encoder_width=64)), start)
    line = refusal(run(folder, init=str(start), out=str(tmp_path / "out")))
    assert "is not a checkpoint of tiny" in line
    assert not (tmp_path / "out").exists()


def test_a_missing_package_is_named(folder, tmp_path, monkeypatch):
    for name in ("ovsdino.training.run.loop", "ovsdino.training.run.log"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    line = refusal(run(folder, out=str(tmp_path / "out")))
    assert "`ovsdino train` needs rich.console, which is not installed: pip install '.[train]'" in line
