"""A model form runs with its own numbers."""

import torch

from ovsdino.network.checkpoint import load_model, save_model
from ovsdino_benchmarks.datasets.protocol import own_protocol
from ovsdino_benchmarks.model_variants.models import ModelSpec, open_segmenter
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle


def test_a_checkpoint_brings_its_own_head(tmp_path):
    model = load_model("nano")
    with torch.no_grad():
        model.head.scale.fill_(7.5)
        model.head.bias.fill_(-1.25)
    save_model(model, tmp_path / "other.safetensors")
    manifest = load_bundle(find_bundle("nano")).manifest
    spec = ModelSpec("nano", form="torch", checkpoint=tmp_path / "other.safetensors")
    head = open_segmenter(spec, own_protocol(manifest)).bundle.manifest.head
    assert (head.scale, head.bias, head.background) == (7.5, -1.25, manifest.head.background)
