"""dinov3.seg and zero-shot dino.txt on the benchmarks' side: protocols, forms, figures, latency."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from PIL import Image

from ovsdino.dinov3seg import zero_shot
from ovsdino.dinov3seg.config import ZeroShotProtocol
from ovsdino.dinov3seg.vlm import Vlm
from ovsdino_benchmarks.cli import bench, evaluate
from ovsdino_benchmarks.datasets.protocol import (
    DINOTXT,
    DINOV3SEG,
    PROTOCOLS,
    ProtocolError,
    own_protocol,
    words_of,
)
from ovsdino_benchmarks.model_variants import dinov3seg as dinov3seg_forms
from ovsdino_benchmarks.model_variants import zero_shot as zero_shot_form
from ovsdino_benchmarks.model_variants.models import open_bundle
from ovsdino_benchmarks.model_variants.zero_shot import ZeroShot, best_classes
from ovsdino_benchmarks.results import results
from ovsdino_runtime.base.photo import load_photo
from ovsdino_runtime.bundle.bundle import Bundle, load_bundle
from ovsdino_runtime.text.vocabulary import Vocabulary, load_vocabulary
from tests.dinov3seg.small import SMALL_VLM
from tests.runtime.dinov3seg_bundle import colour_bundle
from tests.runtime.dinov3seg_cases import build, manifest_of, photo_of, reference
from tests.runtime.test_dinov3seg_pipeline import known, words


@pytest.fixture(scope="module")
def colours(tmp_path_factory) -> str:
    """The path of a bundle with a decoder."""
    return str(colour_bundle(tmp_path_factory.mktemp("dinov3seg")).path)


def run(command, *arguments):
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def test_the_papers_protocols():
    p = PROTOCOLS["dinov3seg"]
    assert (p.short_side, p.long_side, p.window, p.stride, p.average) == (0, 640, 384, 256, "features")
    assert (p.interpolation, p.antialias, p.words) == ("bilinear", False, "official")
    p = PROTOCOLS["dinotxt"]
    assert (p.short_side, p.window, p.stride) == (512, 384, 192)
    assert (p.average, p.probability, p.align_corners) == ("probabilities", "softmax", False)
    assert p.patches == "head"
    assert (p.interpolation, p.templates, p.words) == ("bicubic", "imagenet80", "official")


def test_a_class_is_its_first_word_where_the_protocol_says_so():
    many = load_vocabulary("ade847")
    assert words_of(replace(DINOV3SEG, words="all"), many, "ade847") == many
    first = words_of(replace(DINOV3SEG, words="first"), many, "ade847")
    assert first.names == many.names
    assert {len(words) for words in first.classes} == {1}


def test_a_model_runs_its_own_protocol_and_no_other_familys(colours, tiny):
    own = own_protocol(load_bundle(colours).manifest)
    assert (own.name, own.short_side, own.long_side, own.window, own.stride) == ("model", 0, 64, 32, 16)
    assert (own.average, own.templates, own.antialias) == ("features", "model", False)
    open_bundle(colours, own)
    open_bundle(colours, replace(DINOV3SEG, long_side=64, window=32, stride=8))
    for protocol, why in (
        (PROTOCOLS["ovsdino"], "averages logits, which colours cannot run"),
        (DINOTXT, "averages probabilities, which colours cannot run"),
        (DINOV3SEG, "cuts a square of 640 px into windows of 384 px, which .* 64 px and of windows of 32 px"),
    ):
        with pytest.raises(ProtocolError, match=f"protocol {protocol.name} {why}.*--protocol model"):
            open_bundle(colours, protocol)
    with pytest.raises(ProtocolError, match="protocol model averages features, which tiny cannot run"):
        open_bundle(tiny, replace(own, short_side=32))


def test_evaluate_counts_what_the_model_says(colours, stripes, tmp_path):
    done = run(evaluate, "--data", stripes, "--model", colours, "--threads", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "square of 64" in done.output
    assert "features averaged" in done.output
    found = results.load(tmp_path / "quality-stripes-colours-onnx.json").quality[0]
    assert found.protocol == own_protocol(load_bundle(colours).manifest)
    assert found.miou > 0.9
    assert "ONNX Runtime" in found.engine
    again = run(evaluate, "--data", stripes, "--model", colours, "--threads", 1, "--out", tmp_path)
    assert again.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--protocol", "ovsdino"], "protocol ovsdino averages logits, which colours cannot run"),
        (["--protocol", "dinov3seg"], "--protocol model can be run"),
        (["--precision", "fp16"], "has no graph vision.fp16; export it with --fp16"),
        (["--form", "torch"], "its network is not one that this version can build"),
        (["--model", "dinotxt-vitl16"], "dinotxt-vitl16"),
        (["--model", "dinotxt-vitl16", "--form", "torch"], "give the folder with its two official files"),
        (
            ["--model", "dinotxt-vitl16", "--form", "torch", "--templates", "model"],
            "zero-shot dino.txt has no bundle",
        ),
        (["--model", "nano", "--protocol", "dinov3seg"], "averages features and cuts windows of 384 px"),
        (["--model", "nano", "--form", "torch", "--protocol", "dinotxt"], "which nano cannot run"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_run_is_refused_in_one_line(colours, stripes, tmp_path, arguments, why):
    model = [] if "--model" in arguments else ["--model", colours]
    done = run(evaluate, "--data", stripes, "--out", tmp_path / "out", *model, *arguments)
    assert done.exit_code == 2
    line = done.output.strip().splitlines()[-1]
    assert line.startswith("Error: ")
    assert why in line
    assert not (tmp_path / "out").exists()


def test_the_torch_form_labels_as_the_network_does():
    """The runtime's stages with the network's own methods behind them, against `local_global.predict`."""
    for changes in ({}, {"prior": None, "early": False}):
        network, photo, text = build(**changes), photo_of(117, 203), words(11)  # of which 8 are refined
        bundle = Bundle(None, with_outputs(manifest_of(network)))
        way = dinov3seg_forms.open_torch(bundle, network, threads=1)
        found = way.label(photo, known(text), threshold=None, scores=True)
        assert (found.labels == reference(network, photo, text)[0]).mean() >= 0.999
        assert "torch" in way.vision.description


def with_outputs(manifest):
    """The names that a real bundle gives."""
    names = {
        "refine": ["refined"],
        "late": ["costs"],
        "decoder": ["logits"],
        "guidance": ["image", "fine1", "fine2"],
    }
    graphs = {
        key: replace(
            graph,
            outputs=tuple(replace(graph.outputs[0], name=name) for name in names.get(key, ["features"])),
        )
        for key, graph in manifest.graphs.items()
    }
    return replace(manifest, graphs=graphs)


def test_latency_of_each_stage_beside_its_floor(colours, quick, tmp_path):
    options = ["--model", colours, "--sizes", "80x60", "--class-counts", "12", "--threads", 1, "--repeats", 2]
    done = run(bench, "latency", *options, "--warmup", 1, "--out", tmp_path)
    assert done.exit_code == 0, done.output
    found = results.load(tmp_path / "latency-colours-onnx.json").latency[0]
    stages = {stage.name: stage for stage in found.stages}
    floors = {name for name, stage in stages.items() if stage.floor}
    assert {"resize", "vision", "whole", "late", "sigmoid, merge, upsample, argmax"} <= floors
    others = {"decode", "decoder", "refine", "guidance, alone", "guidance, waited for", "text, all known"}
    assert others <= set(stages) - floors  # here without products
    assert (found.windows, found.classes, found.size) == (9, 12, "80x60")
    conv = 2 * 4 * 3 * 8 * 8  # operations of a patch
    cosine = 2 * 8 * 2 * 4 * 64  # 8 refined classes, two halves
    assert found.gflop == round((conv * (9 * 16 + 64) + cosine) / 1e9, 3)
    assert {one.name for one in found.skipped} == {"torch", "onnxruntime"}


@pytest.fixture
def vlm():
    torch.manual_seed(0)
    return Vlm(replace(SMALL_VLM, text_vocabulary=49408)).eval()


PROTOCOL = replace(DINOTXT, short_side=72, window=56, stride=24, templates="a photo of a {}.")


@pytest.mark.parametrize("patches", ["head", "backbone"])
def test_zero_shot_goes_by_the_notebook(vlm, tmp_path, patches):
    Image.fromarray(photo_of(90, 120)).save(tmp_path / "photo.png")
    how = ZeroShotProtocol(short_side=72, window=56, stride=24, templates="a photo of a {}.", patches=patches)
    model = ZeroShot(vlm, replace(PROTOCOL, patches=patches), threads=1)
    text = model.encode_classes(Vocabulary((("cat", "kitty"), ("sky",), ("sea",))), ())
    with torch.no_grad():
        expected_text = zero_shot.embed_classes(vlm, ["cat", "sky", "sea"], how)
        photo = zero_shot.read_photo(Image.open(tmp_path / "photo.png"), vlm.config, how)
        scores = zero_shot.predict(vlm, photo, text=expected_text, protocol=how)
        full = F.interpolate(scores[None], (90, 120), mode="bilinear", align_corners=False)[0]
    np.testing.assert_allclose(text, expected_text.numpy(), atol=1e-6)
    result = model.label(load_photo(tmp_path / "photo.png"), Vocabulary((("cat",), ("sky",), ("sea",))), text)
    assert (result.labels == full.argmax(0).numpy()).all()
    assert result.classes == ("cat", "sky", "sea")


def test_the_best_of_many_classes_is_found_a_few_at_a_time():
    scores = torch.rand(50, 7, 9, generator=torch.Generator().manual_seed(0))
    scores[3] = scores[40]  # of equal ones the first
    full = F.interpolate(scores[None], (31, 20), mode="bilinear", align_corners=False)[0]
    assert (best_classes(scores, 31, 20) == full.argmax(0).numpy()).all()


def test_zero_shot_is_evaluated_from_the_official_files(vlm, stripes, tmp_path, monkeypatch):
    """The files are 3.5 GB; how they are read is tested with the zoo."""
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "backbone.pth").write_bytes(b"weights")
    monkeypatch.setattr("ovsdino.zoo.checkpoint.load_vlm", lambda paths: {folder: vlm}[paths[0]])
    monkeypatch.setattr("ovsdino_benchmarks.quality.quality.DINOTXT", PROTOCOL)
    monkeypatch.setattr(zero_shot_form, "ZERO_SHOT", ("dinotxt-vitl16",))
    options = ["--model", "dinotxt-vitl16", "--form", "torch", "--checkpoint", folder, "--threads", 1]
    done = run(evaluate, "--data", stripes, "--out", tmp_path / "out", *options)
    assert done.exit_code == 0, done.output
    found = results.load(tmp_path / "out" / "quality-stripes-small-torch.json").quality[0]
    assert (found.protocol.name, found.threshold, found.photos) == ("dinotxt", None, 11)
    (stripes / "names.txt").write_text("background\nred\ngreen\n", encoding="utf-8")
    refused = run(evaluate, "--data", stripes, "--out", tmp_path / "out", *options)
    assert refused.exit_code == 2
    assert "gives every pixel a class, got classes with a background" in refused.output
