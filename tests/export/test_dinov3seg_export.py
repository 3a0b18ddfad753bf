"""dinov3.seg from weights to a bundle whose graphs label as the network does, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner, Result
from tokenizers import Tokenizer

from ovsdino.dinov3seg import local_global
from ovsdino.dinov3seg.checkpoint import load_dinov3seg
from ovsdino.dinov3seg.class_embeddings import embed_classes
from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.presets import PRESETS
from ovsdino.dinov3seg.tokenizer import tokenize
from ovsdino.network.checkpoint import save_model
from ovsdino.training.systems.dinov3seg_validation import label_view
from ovsdino_export.cli import export
from ovsdino_export.dinov3seg.export import Labelled, export_chain, export_dinov3seg
from ovsdino_export.dinov3seg.parity import (
    GraphDinov3seg,
    chain_logits,
    compare_logits,
    onnx_run,
)
from ovsdino_export.dinov3seg.pipelines import make_stages
from ovsdino_export.engines import build as engine_build
from ovsdino_export.engines.build import choose_target
from ovsdino_export.graphs.graph import export_graph
from ovsdino_export.parity import CHAIN_THRESHOLDS, ParityError, misses
from ovsdino_export.request import ExportRequest
from ovsdino_runtime.bundle.bundle import Bundle, ParityThresholds, load_bundle
from ovsdino_runtime.engines.cache import profile
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine, open_engine, verify_golden
from ovsdino_runtime.geometry.preprocess import normalise
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.cache import TextCache
from ovsdino_runtime.text.encoder import TextEncoder
from ovsdino_runtime.text.vocabulary import Vocabulary
from tests.export.dinov3seg_small import MICRO, VARIANTS, make_network

HALVES = (slice(0, 64), slice(64, 128))  # the global and the local columns of MICRO's class embeddings


@pytest.fixture(scope="module", autouse=True)
def presets() -> Iterator[None]:
    """Make the small network, and what cannot be exported, known by name."""
    how = MICRO.inference
    known: dict[str, Dinov3segConfig] = {
        "micro": MICRO,
        "micro-probabilities": replace(MICRO, inference=replace(how, fusion="probabilities")),
        "micro-full": replace(MICRO, class_attention="full"),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, config in known.items():
            patch.setitem(PRESETS, name, replace(config, name=name))
        yield


@pytest.fixture(scope="module")
def weights(weights: Path) -> Path:
    """The folder of photos that OVS-DINO's export reads too, with a checkpoint."""
    save_model(make_network(MICRO), weights / "micro.safetensors")
    return weights


def invoke(weights: Path, out: Path, *more: object) -> Result:
    given = ["--model", "micro", "--checkpoint", weights / "micro.safetensors"]
    given += ["--photos", weights / "photos", "--out", out, *more]
    return CliRunner().invoke(export, [str(part) for part in given])


@pytest.fixture(scope="module")
def made(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The bundle in FP32 and FP16."""
    out = tmp_path_factory.mktemp("seg")
    with pytest.MonkeyPatch.context() as patch:
        # Random weights: classes nearly tie, so labels flip where trained ones do not.
        patch.setitem(CHAIN_THRESHOLDS, "fp16", ParityThresholds(0.999, 0.99, 0.9))
        result = invoke(weights, out, "--fp16")
    assert result.exit_code == 0, result.output
    return load_bundle(out / "micro.ovs")


def test_the_manifest_says_how_photos_are_labelled(made: Bundle) -> None:
    manifest = made.manifest
    stages = ["vision", "whole", "guidance", "refine", "late", "decoder"]
    assert [name for name in manifest.graphs if not name.endswith(".fp16")] == [*stages, "text"]
    assert [name for name in manifest.graphs if name.endswith(".fp16")] == [f"{name}.fp16" for name in stages]
    assert manifest.dinov3seg is not None
    assert (manifest.dinov3seg.view, manifest.dinov3seg.whole, manifest.dinov3seg.unit_length) == (
        96,
        "view",
        True,
    )
    assert (manifest.dinov3seg.pad_length, manifest.dinov3seg.absent_logit) == (8, -100.0)
    assert manifest.dinov3seg.halves == ((0, 64), (64, 128))
    assert (manifest.windows.size, manifest.windows.stride) == (64, 32)
    assert (manifest.head.scale, manifest.head.bias, manifest.head.background) == (1.0, 0.0, 0.5)
    assert manifest.preprocessing.mean == (0.5, 0.5, 0.5)
    assert manifest.templates == ("{}",)
    assert Dinov3segConfig.from_dict(manifest.model) == MICRO
    shapes = {tensor.name: tensor.shape for tensor in manifest.graphs["late"].inputs}
    assert shapes == {"features": (1, 64, 6, 6), "text": ("classes", 128), "image": (1, 8, 6, 6)}
    assert manifest.graphs["decoder"].outputs[0].shape == ("classes", 24, 24)


def test_parity_of_the_chain_is_recorded(made: Bundle) -> None:
    parity = made.manifest.parity
    assert list(parity) == ["text", "chain", "chain.fp16"]
    assert parity["chain"].thresholds == CHAIN_THRESHOLDS["fp32"]
    assert parity["chain"].photos == 3
    assert not list(misses(parity["chain"]))
    assert not list(misses(parity["chain.fp16"]))


@torch.inference_mode()
@pytest.mark.parametrize("classes", [1, 3, 40])
def test_the_files_label_as_the_network(made: Bundle, weights: Path, classes: int) -> None:
    network = load_dinov3seg("micro", weights / "micro.safetensors")
    view = torch.randn(1, 3, 96, 96, generator=torch.Generator().manual_seed(classes))
    text = network.vlm.text(tokenize([f"thing {number}" for number in range(classes)], MICRO.vlm))
    graphs = {name: graph for name, graph in made.manifest.graphs.items() if graph.precision == "fp32"}
    del graphs["text"]
    chain = GraphDinov3seg(MICRO, list(graphs), onnx_run(made.path, graphs))
    expected = local_global.predict(network, view, text)
    torch.testing.assert_close(local_global.predict(chain, view, text), expected, rtol=1e-3, atol=2e-5)


@torch.inference_mode()
def test_the_runtime_labels_photos_as_the_network(made: Bundle, weights: Path) -> None:
    """From words and a photo; of 20 classes 8 are refined; permuted names permute the labels."""
    network = load_dinov3seg("micro", weights / "micro.safetensors")
    names = [f"thing {number}" for number in range(20)]
    photo = np.random.default_rng(0).integers(0, 256, (70, 110, 3), np.uint8)
    pixels = torch.from_numpy(normalise(photo, made.manifest.preprocessing)).permute(2, 0, 1)[None]
    scores = local_global.predict(network, pixels, network.vlm.text(tokenize(names, MICRO.vlm)))
    expected = local_global.labels(scores, 70, 110)[0].numpy()
    segmenter = Segmenter.load(made.path, threads=1)
    found = segmenter(photo, names).labels
    assert (found == expected).mean() >= 0.999
    order = np.random.default_rng(1).permutation(20)
    assert (order[segmenter(photo, [names[index] for index in order]).labels] == found).mean() >= 0.999


def test_text_and_tokenizer_are_the_networks(made: Bundle, weights: Path) -> None:
    network = load_dinov3seg("micro", weights / "micro.safetensors")
    words = ["a cat", "the evening sky"]
    tokenizer = Tokenizer.from_file(str(made.path / "tokenizer.json"))
    ids = np.array([encoding.ids for encoding in tokenizer.encode_batch(words)])
    embeddings = open_engine(made, "text").run({"ids": ids})["embeddings"]
    with torch.inference_mode():
        expected = network.vlm.text(tokenize(words, MICRO.vlm)).numpy()
    np.testing.assert_allclose(embeddings, expected, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_synonyms_and_templates_are_averaged_as_in_dinotxts_notebook(
    made: Bundle, weights: Path, tmp_path: Path
) -> None:
    """Two synonyms in two templates: torch, the runtime and the notebook's order, written as a loop."""
    network = load_dinov3seg("micro", weights / "micro.safetensors")
    templates = ["a photo of a {}.", "{} seen from very far away"]
    classes = [("cat", "kitten of the house"), ("sky",), ("sea", "deep water")]
    expected, raw_means = [], []
    for words in classes:
        prompts = [template.format(word) for word in words for template in templates]
        text = network.vlm.text(tokenize(prompts, MICRO.vlm))  # (P, 128)
        expected.append(torch.cat([F.normalize(text[:, half], dim=-1).mean(0) for half in HALVES]))
        raw_means.append(text.mean(0))
    rows = unit_halves(torch.stack(expected))  # (3, 128)
    assert (unit_halves(torch.stack(raw_means)) - rows).abs().max() > 1e-3  # a mean of raw ones is another
    torch_rows = embed_classes(network, classes, templates)
    torch.testing.assert_close(unit_halves(torch_rows), rows, rtol=0, atol=1e-5)
    segmenter = Segmenter.load(made.path, threads=1, templates=templates)
    encoder = TextEncoder(made, TextCache(tmp_path / "text.sqlite"), threads=1)
    found = encoder.encode_classes(Vocabulary(tuple(classes)), templates)
    torch.testing.assert_close(unit_halves(torch.from_numpy(found)), rows, rtol=0, atol=1e-5)
    photo = np.random.default_rng(0).integers(0, 256, (70, 110, 3), np.uint8)
    torch_labels = label_view(network, photo, torch_rows, background=False)
    labels = segmenter(photo, ["|".join(words) for words in classes]).labels
    assert (labels == torch_labels).mean() >= 0.999


def unit_halves(text: torch.Tensor) -> torch.Tensor:
    """Bring both halves of class embeddings to unit length, as the network does. Shape: (N, 128), kept."""
    return torch.cat([F.normalize(text[:, half], dim=-1) for half in HALVES], dim=-1)


def test_the_golden_pairs_are_the_networks(made: Bundle, weights: Path) -> None:
    assert verify_golden(made, open_engine(made, "vision")) > 0.99999
    with np.load(made.path / "golden.npz") as golden:
        view, text, logits = golden["view"], golden["text"], golden["logits"]
    assert (view.shape, text.shape, logits.shape) == ((96, 96, 3), (16, 128), (16, 24, 24))
    pixels = normalise(view, made.manifest.preprocessing).transpose(2, 0, 1)[None]
    network = load_dinov3seg("micro", weights / "micro.safetensors")
    with torch.inference_mode():
        expected = local_global.view_logits(network, torch.from_numpy(pixels.copy()), torch.from_numpy(text))
    np.testing.assert_allclose(logits, expected[0].numpy(), rtol=2e-3, atol=2e-3)  # stored as FP16


def test_engines_take_one_windows_or_some_classes(made: Bundle) -> None:
    sizes = {graph: profile(made, graph) for graph in made.manifest.graphs}
    assert sizes["vision"] == (1, 4, 4)
    assert sizes["whole"] == sizes["guidance"] == sizes["refine"] == (1, 1, 1)
    assert sizes["late"] == (1, 8, 8)  # pad_length
    assert sizes["decoder"] == (1, 8, 8)


def test_precisions_share_weights_and_the_correlation_stays_in_fp32(made: Bundle) -> None:
    assert made.manifest.graphs["late.fp16"].fp32 == ("correlation",)
    assert made.manifest.files["vision.data"]  # of vision and whole, FP32 and FP16
    assert made.graph_digest("whole") != made.graph_digest("vision")


@pytest.mark.slow
def test_every_half_precision_graph_builds_for_rtx(
    made: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT for RTX has no package for this machine")
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    records = engine_build.build_engines(made, choose_target("tensorrt-rtx", "sm_89"))
    assert [record.graph for record in records] == [
        f"{name}.fp16" for name in ("vision", "whole", "guidance", "refine", "late", "decoder")
    ]
    for record in records:
        assert record.key.batches == profile(made, record.graph)
        products = {name for name in record.layers if name.startswith(("MATRIX_MULTIPLY", "CONVOLUTION"))}
        assert any(name.endswith("HALF") for name in products), record.graph
        assert "SOFTMAX HALF" not in record.layers
        assert "NORMALIZATION HALF" not in record.layers


@pytest.mark.slow
def test_an_ablation_becomes_a_bundle(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one with the fewest graphs."""
    config = replace(
        VARIANTS["no-prior"], name="fewest", inference=VARIANTS["shrunk-whole"].inference, early=False
    )
    monkeypatch.setitem(PRESETS, "fewest", config)
    save_model(make_network(config), tmp_path / "weights.safetensors")
    request = ExportRequest(
        model="fewest", checkpoint=tmp_path / "weights.safetensors", out=tmp_path, photos=weights / "photos"
    )
    bundle = export_dinov3seg(request, lambda _: None)
    assert list(bundle.manifest.graphs) == ["vision", "late", "decoder", "text"]
    assert not list(misses(bundle.manifest.parity["chain"]))


@torch.inference_mode()
@pytest.mark.parametrize(("variant", "name"), [("no-late", "late"), ("dinov3", "vision"), ("clip", "vision")])
def test_a_graph_that_an_ablation_changes_computes_what_torch_does(
    variant: str, name: str, tmp_path: Path
) -> None:
    """The chain of each ablation is compared with the network in test_dinov3seg_pipelines."""
    stage = make_stages(make_network(VARIANTS[variant]))[name]
    module = stage.build(precision="fp32", fp32=())
    onnx.save(export_graph(module, stage.example, stage.spec), tmp_path / "graph.onnx")
    inputs = {
        tensor: torch.randn(example.shape, generator=torch.Generator().manual_seed(seed))
        for seed, (tensor, example) in enumerate(zip(stage.spec.inputs, stage.example, strict=True))
    }
    engine = OnnxRuntimeEngine(tmp_path / "graph.onnx", threads=1)
    found = engine.run({tensor: values.numpy() for tensor, values in inputs.items()})
    torch.testing.assert_close(
        torch.from_numpy(found[stage.spec.outputs[0]]), module(*inputs.values()), rtol=1e-3, atol=2e-5
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--int8", "--int8 is not for micro: its graphs are FP32 and FP16"),
        ("--bf16", "--bf16 is not for micro"),
        ("--kernels sm_89", "--kernels is not for micro"),
        ("--text-checkpoint {weights}/text.safetensors", "--text-checkpoint is not for micro"),
        ("--checkpoint {out}/none.safetensors", "no checkpoint at "),
        ("--checkpoint {weights}/text.safetensors", "is not a checkpoint of micro: "),
        ("--model micro-probabilities", "fuses probabilities, which only torch does"),
        ("--model micro-full", "has full attention between classes; only linear is exported"),
    ],
)
def test_what_cannot_be_exported_is_refused_in_one_line(
    weights: Path, tmp_path: Path, more: str, message: str
) -> None:
    out = tmp_path / "out"
    result = invoke(weights, out, *more.format(weights=weights, out=out).split())
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not out.exists()


@pytest.mark.parametrize("model", ["dinov3seg-tiny", "dinov3seg-vitl16", "dinov3seg-vitl14-clip"])
def test_without_weights_the_command_asks_for_them(model: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(export, ["--model", model, "--out", str(tmp_path / "out")])
    assert result.exit_code == 2
    assert (
        f"{model} has no public weights: give a checkpoint that you trained (--checkpoint FILE)"
        in result.stderr
    )
    assert not (tmp_path / "out").exists()


def test_half_precision_that_labels_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(CHAIN_THRESHOLDS, "fp16", ParityThresholds(0, 0, 1.1))
    network, steps = make_network(MICRO), list[str]()
    views = torch.randn(1, 3, 96, 96).numpy()
    text = torch.randn(3, 128).numpy()
    inputs = Labelled(source="noise", views=views, text=text, logits=chain_logits(network, views, text))
    with pytest.raises(ParityError, match=r"the chain of graphs differs .* 1\.1; export without --fp16"):
        export_chain(network, tmp_path, inputs, fp16=True, report=steps.append)
    assert steps == ["trying fp16 on noise", "trying fp16 with attention in FP32 on noise"]
    assert not list(tmp_path.iterdir())


def test_logits_are_compared_without_what_all_classes_share() -> None:
    random = np.random.default_rng(0)
    expected = random.normal(size=(2, 5, 3, 3)).astype(np.float32)
    moved = compare_logits(expected, expected * 2 - 50, CHAIN_THRESHOLDS["fp32"])
    assert moved.cosine_mean == pytest.approx(1, abs=1e-5)
    assert moved.label_agreement == 1
    turned = compare_logits(expected, -expected, CHAIN_THRESHOLDS["fp32"])
    assert turned.cosine_mean == pytest.approx(-1, abs=1e-5)
    assert turned.label_agreement == 0
    broken = compare_logits(expected, np.full_like(expected, np.nan), CHAIN_THRESHOLDS["fp32"])
    assert not broken.finite
    assert broken.label_agreement == 0
