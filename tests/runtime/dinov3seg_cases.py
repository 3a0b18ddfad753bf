"""A small dinov3.seg network whose parts stand in for the graphs of a bundle: torch itself is the engine."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ovsdino.dinov3seg.config import Dinov3segConfig
from ovsdino.dinov3seg.correlation import correlate, text_halves
from ovsdino.dinov3seg.decoder import fit
from ovsdino.dinov3seg.local_global import labels, predict
from ovsdino.dinov3seg.model import Dinov3Seg
from ovsdino_runtime.base.options import DEFAULT_OPTIONS, RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle, Graph, Head, Manifest, Tensor, TextInfo
from ovsdino_runtime.bundle.manifest import SCHEMA_VERSION, Dinov3seg
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.windows import WindowPolicy
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from tests.dinov3seg.small import SMALL, randomise

PATCH = 16
HALVES = {"global": (0, 192), "local": (192, 384)}


@dataclass
class TorchEngine:
    """Runs a function of tensors as a graph."""

    function: object
    description: str = "torch"

    def run(self, inputs):
        with torch.no_grad():
            outputs = self.function(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        return {name: value.numpy() for name, value in outputs.items()}


def build(**changes) -> Dinov3Seg:
    """A small network with random weights that show."""
    torch.manual_seed(0)
    network = Dinov3Seg(replace(SMALL, **changes)).eval()
    for part in (network.early, network.late, network.decoder, network.cost_embedding):
        randomise(part)
    randomise(network.vlm.vision, 0.6)  # so that patches look at each other
    return network


def functions(network: Dinov3Seg):
    """Each graph as a function of its inputs, restated from the network's layers."""
    config, decoder = network.config, network.decoder
    grid = config.inference.view // PATCH

    def guidance(pixels):
        prior = network.see_prior(pixels)
        coarse = {}
        if network.image_guidance is not None:
            coarse["image"] = network.image_guidance(fit(prior.last, [grid, grid])).relu()
        fine1 = decoder.stage1.project(decoder.prior_up1(fit(prior.first, [grid, grid]))).relu()
        fine2 = decoder.stage2.project(decoder.prior_up2(fit(prior.second, [grid, grid]))).relu()
        return {**coarse, "fine1": fine1, "fine2": fine2}

    def late(features, text, image=None):
        halves = text_halves(text, config)
        x = network.cost_embedding(correlate(features, halves)[0])[None]  # (1, n, C, g, g)
        if network.text_guidance is not None:
            words = network.text_guidance(halves.flatten(1)[None]).relu()
            for layer in network.late:
                x = layer(x, image, text=words, present=torch.ones(1, len(text), dtype=torch.bool))
        return {"costs": x[0]}

    def decode(costs, fine1=None, fine2=None):
        for stage, fine in ((decoder.stage1, fine1), (decoder.stage2, fine2)):
            costs = stage.up(costs)
            if fine is not None:
                costs = torch.cat([costs, fine.expand(len(costs), -1, -1, -1)], dim=1)
            costs = stage.convolve(costs)
        return {"logits": decoder.head(costs)[:, 0]}

    parts = {"vision": lambda pixels: {"features": network.vlm.vision(pixels)}, "late": late}
    parts["decoder"] = decode
    if config.inference.whole == "view":
        parts["whole"] = parts["vision"]
    if config.prior is not None:
        parts["guidance"] = guidance
    if config.early:
        parts["refine"] = lambda pixels, features: {"refined": network.refine_patches(pixels, features)}
    return parts


def inputs_of(config: Dinov3segConfig, name: str) -> tuple[str, ...]:
    prior = config.prior is not None
    return {
        "refine": ("pixels", "features"),
        "late": ("features", "text", *(["image"] if prior and config.late else [])),
        "decoder": ("costs", *(["fine1", "fine2"] if prior else [])),
    }.get(name, ("pixels",))


def manifest_of(network: Dinov3Seg) -> Manifest:
    """What an export would write of the network, as far as a pipeline reads it."""
    config, how = network.config, network.config.inference
    cells = how.window // PATCH
    graphs = {}
    for name in functions(network):
        inputs = tuple(Tensor(tensor, "float32", ()) for tensor in inputs_of(config, name))
        output = Tensor("features", "float32", ("batch", 192, cells, cells))
        graphs[name] = Graph(file=f"{name}.onnx", precision="fp32", inputs=inputs, outputs=(output,))
    halves = tuple(HALVES[half] for half in config.halves)
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name=config.name,
        model=config.to_dict(),
        preprocessing=Preprocessing(how.view, how.view, mean=config.vlm.mean, std=config.vlm.std),
        windows=WindowPolicy(how.window, how.stride),
        head=Head(scale=1.0, bias=0.0, background=0.5),
        templates=config.templates,
        text=TextInfo(config.vlm.text_width, 77),
        graphs=graphs,
        parity={},
        licences=(),
        made_by={},
        dinov3seg=Dinov3seg(
            view=how.view,
            whole=how.whole,
            unit_length=how.unit_length,
            halves=halves,
            pad_length=config.pad_length,
            absent_logit=config.absent_logit,
        ),
    )


def open_torch(network: Dinov3Seg, options: RuntimeOptions = DEFAULT_OPTIONS) -> Dinov3segPipeline:
    """The pipeline with torch behind every graph."""
    engines = {name: TorchEngine(function) for name, function in functions(network).items()}
    return Dinov3segPipeline(Bundle(Path("none"), manifest_of(network)), engines, options=options)


def photo_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Colours that change slowly, with noise."""
    random = torch.Generator().manual_seed(seed)
    coarse = torch.rand(1, 3, 6, 6, generator=random) * 220
    smooth = F.interpolate(coarse, (height, width), mode="bicubic") + 30 * torch.rand(
        1, 3, height, width, generator=random
    )
    return smooth.clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).numpy()


def reference(network: Dinov3Seg, photo: np.ndarray, text: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and confidence of the torch form. Shape: (H, W) each."""
    mean, std = (
        torch.tensor(row)[:, None, None] for row in (network.config.vlm.mean, network.config.vlm.std)
    )
    pixels = (torch.from_numpy(photo).permute(2, 0, 1)[None] / 255 - mean) / std
    with torch.no_grad():
        scores = predict(network, pixels, torch.from_numpy(text))  # (1, N, V, V)
    full = F.interpolate(scores, photo.shape[:2], mode="bilinear", align_corners=False)
    return labels(scores, *photo.shape[:2])[0].numpy(), full.amax(1)[0].numpy()
