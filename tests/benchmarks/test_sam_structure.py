"""Table 4's switch, with a tiny random SAM and a tiny random network, against the pieces called by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

from ovsdino.masks.teachers.sam import SamShape, build_sam, load_sam
from ovsdino.network.checkpoint import save_model
from ovsdino.network.config import NANO, PRESETS
from ovsdino.network.model import OVSDINO
from ovsdino_benchmarks.cli import evaluate
from ovsdino_benchmarks.model_variants.models import ModelSpec, hash_form, open_engine
from ovsdino_benchmarks.results import results
from ovsdino_runtime.bundle.bundle import load_bundle

SIDE, VIEW = 32, 64  # [px] a window's, and what SAM reads
SHAPE = SamShape(
    width=16, depth=1, heads=2, patch=16, image_size=VIEW, window=2, global_blocks=(), channels=256
)
SMALL = {"image_size": SIDE, "position_grid": 2, "encoder_width": 64, "norm_groups": 16, "text_width": 4}
CONFIG = replace(NANO, name="tiny", structure_channels=256, **SMALL)


@pytest.fixture(autouse=True)
def presets(monkeypatch):
    bare = replace(CONFIG, name="tiny-no-encoder", encoder=False)
    for config in (CONFIG, bare):
        monkeypatch.setitem(PRESETS, config.name, config)


def write_sam(file, seed: int = 0):
    torch.manual_seed(seed)
    shapes = build_sam(SHAPE).state_dict()
    torch.save({name: torch.randn(tensor.shape) * 0.2 for name, tensor in shapes.items()}, file)
    return file


def write_model(file, name: str = "tiny"):
    torch.manual_seed(1)
    model = OVSDINO(PRESETS[name]).eval()
    torch.nn.init.constant_(model.gate.alpha, 2.0)
    save_model(model, file)
    return model


@pytest.fixture
def sam(tmp_path):
    return write_sam(tmp_path / "sam_vit_b_01ec64.pth")


def by_hand(model, sam, photos):
    """Pillow enlarges the photos, SAM's own code normalises and encodes them."""
    whole = load_sam(sam)
    with torch.inference_mode():
        size, bilinear = (VIEW, VIEW), Image.Resampling.BILINEAR
        views = np.stack([np.asarray(Image.fromarray(photo).resize(size, bilinear)) for photo in photos])
        seen = whole.preprocess(torch.from_numpy(views).permute(0, 3, 1, 2).float())
        neck = whole.image_encoder(seen)  # (B, 256, 4, 4): this network's (2h, 2w)
        pixels = torch.from_numpy(photos).permute(0, 3, 1, 2) / 127.5 - 1
        return F.normalize(model(pixels, neck), dim=1), F.normalize(model(pixels), dim=1)


def test_the_network_is_shown_sams_features_of_each_window(tiny, sam, tmp_path):
    model = write_model(tmp_path / "tiny.safetensors")
    spec = ModelSpec(tiny, form="torch", checkpoint=tmp_path / "tiny.safetensors", threads=1, sam=sam)
    engine = open_engine(load_bundle(tiny), spec)
    photos = np.random.default_rng(0).integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8)
    pixels = (photos / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2)
    found = torch.from_numpy(engine.run({"pixels": pixels})["features"])
    expected, own = by_hand(model, sam, photos)
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)  # Pillow rounds twice, and SAM's are FP16
    assert (found - own).abs().max() > 0.1, "they are not what the network's own encoder gives"
    assert engine.description.endswith("1 threads, SAM's features (sam_vit_b_01ec64.pth)")


def test_a_network_without_an_encoder_is_opened_by_its_bundles_name(tiny, sam, tmp_path):
    model = write_model(tmp_path / "bare.safetensors", "tiny-no-encoder")
    spec = ModelSpec(tiny, form="torch", checkpoint=tmp_path / "bare.safetensors", threads=1, sam=sam)
    engine = open_engine(load_bundle(tiny), spec)
    assert not engine._model.model.config.encoder
    pixels = torch.zeros(1, 3, SIDE, SIDE)
    with torch.inference_mode():
        expected = F.normalize(model(pixels, engine._model.structure(pixels)), dim=1)
    np.testing.assert_allclose(engine.run({"pixels": pixels.numpy()})["features"], expected, atol=1e-6)


def run(*arguments):
    return CliRunner().invoke(evaluate, [str(one) for one in arguments])


def test_evaluate_says_so_and_resumes_only_its_own(tiny, sam, stripes, tmp_path):
    write_model(tmp_path / "tiny.safetensors")
    for kind in ("images", "labels"):
        for file in sorted((stripes / kind).iterdir())[2:]:
            file.unlink()
    out = tmp_path / "out"
    given = ("--data", stripes, "--model", tiny, "--form", "torch", "--protocol", "model", "--threads", 1)
    given += ("--checkpoint", tmp_path / "tiny.safetensors", "--out", out)
    first = run(*given, "--sam", sam)
    assert first.exit_code == 0, first.output
    assert "stripes (2 photos, own folder), tiny, torch+sam: mIoU" in first.stdout
    one = results.load(out / "quality-stripes-tiny-torch+sam.json").quality[0]
    assert one.form == "torch+sam"
    assert one.engine.endswith("SAM's features (sam_vit_b_01ec64.pth)")
    assert (out / one.confusion).is_file()

    assert run(*given, "--sam", sam).stdout == first.stdout
    assert len(list((out / ".partial").iterdir())) == 1
    assert run(*given).exit_code == 0
    kept = sorted(path.name.rpartition("-")[0] for path in (out / ".partial").iterdir())
    assert kept == ["stripes-torch", "stripes-torch+sam"]
    assert results.load(out / "quality-stripes-tiny-torch.json").quality[0].form == "torch"


def test_the_digest_tells_one_sam_from_another(tiny, sam, tmp_path):
    write_model(tmp_path / "tiny.safetensors")
    spec = ModelSpec(tiny, form="torch", checkpoint=tmp_path / "tiny.safetensors")
    bundle, other = load_bundle(tiny), write_sam(tmp_path / "other.pth", seed=5)
    digests = [hash_form(replace(spec, sam=file), bundle) for file in (None, sam, other, sam)]
    assert len(set(digests)) == 3
    assert digests[1] == digests[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--sam: got --form onnx, expected --form torch and no other"),
        (("--form", "torch", "--form", "onnx"), "--sam: got --form torch, onnx, expected --form torch"),
        (
            ("--form", "torch", "--model", "nano", "--protocol", "model"),
            "its features have 256 channels, the structure map of nano has 128; give a model",
        ),
        (
            ("--form", "torch", "--model", "nano", "--protocol", "model", "--sam", "nowhere.pth"),
            "nowhere.pth: no such file; SAM's checkpoint is wanted, get it: curl",
        ),
    ],
)
def test_a_mistake_gets_one_line(sam, stripes, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("--data", stripes, "--sam", sam, *options, "--out", "out")
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output
    assert not (tmp_path / "out").exists()
