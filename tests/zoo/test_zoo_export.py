"""Published models through the same export and the same runtime as our own."""

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from ovsdino.network.head import unit
from ovsdino.zoo import checkpoint, store
from ovsdino.zoo.class_embeddings import embed_classes
from ovsdino_export.cli import export
from ovsdino_export.engines.kernels import plan_device_kernels, plan_kernels
from ovsdino_export.export import export_bundle
from ovsdino_export.networks import load_network
from ovsdino_export.photos import paint
from ovsdino_export.request import ExportRequest
from ovsdino_export.web.settings import check_supported
from ovsdino_runtime.base.errors import OvsdinoError
from ovsdino_runtime.bundle.bundle import GOLDEN
from ovsdino_runtime.engines.onnxruntime import open_engine
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.text.class_lists import read_classes
from ovsdino_runtime.text.vocabulary import load_templates
from tests.zoo import official_files as official
from tests.zoo.official_files import CLIP_WIDTH, SMALL, SMALL_DINOV3, SMALL_ZERO_SHOT


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for seed in range(2):
        Image.fromarray(paint(seed, 90)).save(folder / f"{seed}.png")
    return folder


def test_talk2dino_becomes_a_bundle_that_the_runtime_opens(tmp_path, photos):
    torch.save(official.whole(), tmp_path / "whole.pth")
    bundle = export_bundle(
        ExportRequest(model=SMALL.name, checkpoint=tmp_path / "whole.pth", out=tmp_path, photos=photos)
    )
    manifest = bundle.manifest
    assert bundle.path.name == "talk2dino-small.ovs"
    assert list(manifest.graphs) == ["vision", "projection", "text"]
    assert (manifest.head.scale, manifest.head.bias, manifest.head.background) == (1, 0, 0.55)
    assert (manifest.windows.size, manifest.windows.stride, manifest.preprocessing.short_side) == (56, 28, 56)
    assert manifest.templates == load_templates("imagenet7")
    assert manifest.text.width == SMALL.text_width  # of class embeddings, which are projected
    assert manifest.graphs["text"].outputs[0].shape[-1] == CLIP_WIDTH
    assert manifest.model["backbone"] == SMALL.backbone

    network, tower = checkpoint.load(SMALL.name, [tmp_path / "whole.pth"])
    ids = np.array([[49406, 320, 2368, 49407], [49406, 5922, 49407, 0]])
    found = open_engine(bundle, "text").run({"ids": ids})["embeddings"]
    with torch.inference_mode():
        raw = tower.encode_raw(torch.from_numpy(ids))
        np.testing.assert_allclose(found, raw.numpy(), rtol=1e-4, atol=2e-5)

    segmenter = Segmenter.load(bundle.path)
    vocabulary = ["cat", "grass|lawn"]
    with torch.inference_mode():
        official_rows = embed_classes(tower, [("cat",), ("grass", "lawn")], load_templates("imagenet7"))
    rows = segmenter.encode_text(read_classes(vocabulary))
    np.testing.assert_allclose(rows, official_rows.numpy(), atol=2e-5)
    again = Segmenter.load(bundle.path)  # from the cache, which keeps what comes before the projection
    np.testing.assert_allclose(again.encode_text(read_classes(vocabulary)), rows, atol=1e-6)
    again.close()
    photo = paint(1, 56)
    seen = segmenter(photo, vocabulary)
    np.testing.assert_allclose(expected_scores(network, segmenter, photo, vocabulary), seen.scores, atol=3e-3)
    segmenter.close()
    with pytest.raises(
        OvsdinoError, match=r"a model with a projection \(Talk2DINO\) does not run in the browser"
    ):
        check_supported(bundle)


def expected_scores(network, segmenter, photo, vocabulary):
    """The best class's sigmoid(cosine) of a photo as large as a window, in torch."""
    words = torch.from_numpy(segmenter.encode_text(read_classes(vocabulary)))
    colours = (photo / 255.0 - np.array(SMALL.mean)) / np.array(SMALL.std)
    pixels = torch.from_numpy(colours.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        cosines = network.score(pixels, words)
        fine = torch.nn.functional.interpolate(cosines, (56, 56), mode="bilinear", align_corners=False)
    return fine.sigmoid().amax(1)[0].numpy()


@pytest.mark.slow
@pytest.mark.parametrize("name", [SMALL_DINOV3.name, SMALL_ZERO_SHOT.name])
def test_models_on_dinov3_export_too(tmp_path, photos, name):
    files = {"backbone.pth": official.dinov3()}
    if name == SMALL_ZERO_SHOT.name:
        files["dinotxt.pth"] = official.dinotxt()
    else:
        files |= {"clip.pth": official.clip(), "projection.pth": official.projection(192)}
    (tmp_path / "files").mkdir()
    for file, tensors in files.items():
        torch.save(tensors, tmp_path / "files" / file)
    arguments = [
        "--model",
        name,
        "--checkpoint",
        str(tmp_path / "files"),
        "--out",
        str(tmp_path),
        "--kernels",
        "none",
    ]
    result = CliRunner().invoke(export, [*arguments, "--photos", str(photos)])
    assert result.exit_code == 0, result.output
    manifest = json.loads((tmp_path / f"{name}.ovs" / "bundle.json").read_text())
    assert manifest["windows"] == {"size": 64, "stride": 32, "taper": None}
    assert manifest["preprocessing"]["short_side"] == (80 if name == SMALL_ZERO_SHOT.name else 64)
    assert manifest["parity"]["vision"]["cosine_p01"] >= 0.9999

    network, _ = checkpoint.load(name, [tmp_path / "files"])
    with np.load(tmp_path / f"{name}.ovs" / GOLDEN) as golden:
        image, features = golden["image"], golden["features"]
    colours = (image / 255.0 - np.array(network.config.mean)) / np.array(network.config.std)
    with torch.inference_mode():
        pixels = torch.from_numpy(colours.transpose(2, 0, 1)[None].astype(np.float32))
        np.testing.assert_allclose(unit(network(pixels))[0].numpy(), features, atol=2e-3)


def test_without_a_checkpoint_the_fetched_files_are_taken(tmp_path, monkeypatch):
    from ovsdino.zoo import catalogue

    entry = catalogue.CatalogueEntry("small", "MIT", (catalogue.WebFile("https://example.org/whole.pth", 1),))
    monkeypatch.setitem(catalogue.ENTRIES, SMALL.name, entry)
    with pytest.raises(
        store.FetchError, match=r"whole\.pth is not in .*`ovsdino models fetch talk2dino-small`"
    ):
        load_network(SMALL.name, None, None)
    store.weights_folder(SMALL.name).mkdir(parents=True)
    torch.save(official.whole(), store.weights_folder(SMALL.name) / "whole.pth")
    network, text = load_network(SMALL.name, None, None)
    assert network.config is SMALL
    assert len(text.templates) == 7


def test_a_zoo_model_needs_only_the_kernels_around_the_engine():
    names = {plan.operator for plan in plan_kernels(SMALL, ["fp32", "fp16"])}
    assert names == {plan.operator for plan in plan_device_kernels()} | {"UpsampleArgmax"}


def test_an_unknown_name_lists_every_model():
    with pytest.raises(
        OvsdinoError, match=r"unknown model 'talk3dino'; known: .*nano.*dinov3seg-.*talk2dino-vitb14"
    ):
        load_network("talk3dino", None, None)
