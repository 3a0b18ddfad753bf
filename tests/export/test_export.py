"""From weights to a bundle that the runtime opens, and what is refused on the way."""

import shutil
import subprocess
import sys
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer

from ovsdino.network import checkpoint
from ovsdino.network.config import PRESETS
from ovsdino.network.head import unit
from ovsdino.network.model import OVSDINO
from ovsdino_export import parity
from ovsdino_export.cli import export
from ovsdino_export.export import DATA_FILE, ExportRequest, export_bundle
from ovsdino_export.parity import THRESHOLDS, ParityError
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.bundle import ParityThresholds, load_bundle
from ovsdino_runtime.engines.onnxruntime import open_engine, verify_golden

ROOT = Path(__file__).resolve().parents[2]


def request_for(weights, out, **changes):
    request = ExportRequest(
        model="tiny",
        checkpoint=weights / "tiny.safetensors",
        text_checkpoint=weights / "text.safetensors",
        out=out,
        photos=weights / "photos",
    )
    return replace(request, **changes)


@pytest.fixture(scope="module")
def exported(weights, tmp_path_factory):
    """A bundle with both precisions, and the steps that were reported."""
    steps: list[str] = []
    bundle = export_bundle(request_for(weights, tmp_path_factory.mktemp("out"), fp16=True), steps.append)
    return bundle, steps


def test_the_bundle_holds_the_model(exported, tiny, tiny_preset):
    bundle, steps = exported
    manifest = load_bundle(bundle.path).manifest
    assert bundle.path.name == "tiny.ovs"
    assert manifest.model == {
        k: list(v) if isinstance(v, tuple) else v for k, v in tiny_preset.to_dict().items()
    }
    assert (manifest.windows.size, manifest.windows.stride) == (64, 32)
    assert manifest.preprocessing.short_side == 64
    assert manifest.preprocessing.mean == (0.5, 0.5, 0.5)
    assert manifest.head.scale == pytest.approx(tiny.head.scale.item(), abs=5e-3)  # saved as FP16
    assert (manifest.text.width, manifest.text.context_length) == (24, 12)
    assert list(manifest.graphs) == ["vision", "vision.fp16", "text"]
    assert manifest.made_by["torch"] == version("torch")
    assert steps[0] == "loading weights"
    assert "exporting vision.fp16.onnx" in steps


def test_parity_is_recorded_with_its_thresholds_and_photos(exported):
    manifest = exported[0].manifest
    assert list(manifest.parity) == ["text", "vision", "vision.fp16"]
    for name, figure in manifest.parity.items():
        assert figure.thresholds == THRESHOLDS[name]
        assert figure.finite
        assert not list(parity.misses(figure))
    assert manifest.parity["vision"].photos == 3
    assert manifest.made_by["parity photos"] == "3 photos of photos"


def test_both_vision_graphs_share_one_file_of_weights(exported, tiny):
    path = exported[0].path
    assert (path / "vision.onnx").stat().st_size < 150_000
    assert (path / "vision.fp16.onnx").stat().st_size < 150_000
    count = sum(parameter.numel() for parameter in tiny.parameters())
    assert (
        path / DATA_FILE
    ).stat().st_size < 2.3 * count  # FP16 once; the resized embedding and norms besides


def test_the_engines_of_the_runtime_reproduce_the_golden_pair(exported):
    bundle = exported[0]
    for graph, minimum in (("vision", 0.99999), ("vision.fp16", 0.9995)):
        assert verify_golden(bundle, open_engine(bundle, graph)) > minimum


@torch.no_grad()
def test_the_files_compute_what_the_checkpoint_computes(exported, weights, pixels):
    model = checkpoint.load_model("tiny", weights / "tiny.safetensors")
    features = open_engine(exported[0], "vision").run({"pixels": pixels.numpy()})["features"]
    np.testing.assert_allclose(features, unit(model(pixels)).numpy(), rtol=0, atol=2e-6)


def test_the_tokenizer_is_the_towers(exported, weights):
    ours = Tokenizer.from_file(str(exported[0].path / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(weights / "tokenizer.json"))
    assert ours.encode("a Cat, sky").ids == theirs.encode("a Cat, sky").ids


def test_a_miss_of_parity_writes_nothing(weights, tmp_path, monkeypatch):
    monkeypatch.setitem(THRESHOLDS, "vision", ParityThresholds(1.1, 0, 0))
    with pytest.raises(
        ParityError, match=r"vision.onnx differs .* cosine_mean 1\.0.*, expected at least 1\.1"
    ):
        export_bundle(request_for(weights, tmp_path))
    assert not list(tmp_path.iterdir())


def invoke(weights, *arguments, flags=()):
    given = {
        "--model": "tiny",
        "--checkpoint": weights / "tiny.safetensors",
        "--text-checkpoint": weights / "text.safetensors",
        "--photos": weights / "photos",
        "--kernels": "none",
    } | dict(zip(arguments[::2], arguments[1::2], strict=True))
    return CliRunner().invoke(export, [str(part) for pair in given.items() for part in pair] + list(flags))


def test_the_command_replaces_a_bundle_only_when_asked(exported, weights, tmp_path):
    bundle = shutil.copytree(exported[0].path, tmp_path / "tiny.ovs")
    refused = invoke(weights, "--out", tmp_path)
    assert refused.exit_code == 2
    assert "exists already; choose another --out, or replace it with --overwrite" in refused.stderr
    assert load_bundle(bundle).manifest == exported[0].manifest

    result = invoke(weights, "--out", tmp_path, flags=["--overwrite"])
    assert result.exit_code == 0, result.output
    assert "exporting vision.onnx" in result.output
    assert "compared on 3 photos of photos" in result.output
    assert "vision.onnx" in result.output.split("tiny.ovs")[-1]
    assert list(load_bundle(bundle).manifest.graphs) == ["vision", "text"]
    assert (bundle / "vision.onnx").stat().st_size < 100_000  # its weights are the checkpoint's
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.ovs"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--model", "giant", "unknown model 'giant'; known: "),
        ("--checkpoint", "{tmp}/none.safetensors", "no checkpoint at "),
        ("--checkpoint", "{weights}/text.safetensors", "is not a checkpoint of tiny: "),
        ("--checkpoint", "{weights}/tokenizer.json", "not a readable checkpoint"),
        ("--text-checkpoint", "{tmp}/none.safetensors", "no checkpoint at "),
        ("--text-checkpoint", "{weights}/tiny.safetensors", "no text tower's configuration inside"),
        ("--photos", "{tmp}", "no photos in it"),
        ("--out", "{weights}/tiny.safetensors", "is not a directory"),
    ],
)
def test_bad_input_is_refused_in_one_line_and_nothing_is_written(weights, tmp_path, option, value, message):
    folder = tmp_path / "out"
    arguments = {"--out": folder} | {option: value.format(tmp=tmp_path, weights=weights)}
    result = invoke(weights, *(part for pair in arguments.items() for part in pair))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("Error: ")
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not folder.exists()


def test_a_checkpoint_of_another_preset_names_the_keys(weights, tmp_path, tiny_preset):
    other = replace(tiny_preset, taps=(3, 6), text_width=32)
    checkpoint.save_model(OVSDINO(other), tmp_path / "other.safetensors")
    result = invoke(weights, "--checkpoint", tmp_path / "other.safetensors", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert "missing (structure_encoder.fusion.transforms.2." in result.stderr
    assert "mis-shaped (projector.bias (32,) instead of (24,)" in result.stderr.replace("\n", "")


def test_a_model_that_needs_sam_is_refused(weights, tmp_path, monkeypatch, tiny_preset):
    config = replace(tiny_preset, name="bare", encoder=False)
    monkeypatch.setitem(PRESETS, "bare", config)
    checkpoint.save_model(OVSDINO(config), tmp_path / "bare.safetensors")
    with pytest.raises(OvsdinoError, match="for study, not for export"):
        export_bundle(request_for(weights, tmp_path, model="bare", checkpoint=tmp_path / "bare.safetensors"))


def test_clip_without_its_weights_says_what_to_give(weights, tmp_path, monkeypatch, tiny_preset):
    monkeypatch.setitem(PRESETS, "tiny", replace(tiny_preset, text_encoder="clip-vit-b-16"))
    with pytest.raises(OvsdinoError, match="--text-checkpoint FILE"):
        export_bundle(request_for(weights, tmp_path, text_checkpoint=None))


def test_without_torch_the_command_says_what_to_install():
    code = (
        f"import sys; sys.path[:0] = {[str(ROOT), str(ROOT / 'export'), str(ROOT / 'runtime')]!r}\n"
        "sys.modules['torch'] = None\nfrom ovsdino_export.cli import export\nexport(['--model', 'nano'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "pip install '.[export,cpu]'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
