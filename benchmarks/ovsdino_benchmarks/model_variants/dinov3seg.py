"""The forms of a dinov3.seg model: the graphs of a bundle, or the torch network in the same stages."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.install import install_command
from ovsdino_runtime.base.options import Precision, RuntimeOptions
from ovsdino_runtime.bundle.bundle import Bundle
from ovsdino_runtime.bundle.manifest import DINOV3SEG_STAGES
from ovsdino_runtime.engines.onnxruntime import Engine
from ovsdino_runtime.engines.threads import available_threads
from ovsdino_runtime.geometry.types import Array
from ovsdino_runtime.pipelines.dinov3seg import Dinov3segPipeline
from ovsdino_runtime.pipelines.dinov3seg_open import open_dinov3seg_pipeline

Dinov3Seg = Any  # the torch network
Tensor = Any  # torch.Tensor; torch is imported when it runs


class TorchStage:
    """A part of the torch network with the interface of a graph's engine.

    Args:
        part: takes the inputs of the graph by name, returns its outputs in order.
        outputs: names of the outputs.
        description: description of the engine.
    """

    def __init__(self, part: Callable[..., Any], outputs: tuple[str, ...], description: str) -> None:
        self._part = part
        self._outputs = outputs
        self.description = description

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Compute all outputs."""
        import torch

        with torch.inference_mode():
            result = self._part(**{name: torch.from_numpy(value) for name, value in inputs.items()})
        outputs = result if isinstance(result, tuple) else (result,)
        return {name: value.numpy() for name, value in zip(self._outputs, outputs, strict=True)}


def open_pipeline(bundle: Bundle, *, precision: Precision, threads: int | None) -> Dinov3segPipeline:
    """Open the graphs of a bundle; see `open_dinov3seg_pipeline`."""
    return open_dinov3seg_pipeline(bundle, RuntimeOptions(precision=precision, threads=threads))


def open_torch(bundle: Bundle, network: Dinov3Seg, *, threads: int | None) -> Dinov3segPipeline:
    """Open the torch network in the runtime's stages, so that only the network differs from the bundle."""
    import torch

    torch.set_num_threads(threads or available_threads())
    description = f"torch {torch.__version__} eager on the CPU, {torch.get_num_threads()} threads"
    parts, graphs = torch_parts(network), bundle.manifest.graphs
    engines: dict[str, Engine] = {}
    for name in ("vision", *DINOV3SEG_STAGES):
        if name in graphs:
            outputs = tuple(tensor.name for tensor in graphs[name].outputs)
            engines[name] = TorchStage(parts[name], outputs, description)
    return Dinov3segPipeline(bundle, engines)


def load_network(bundle: Bundle, checkpoint: Path | None, *, random_weights: bool = False) -> Dinov3Seg:
    """Build the torch network from which a bundle was exported.

    Raises:
        EngineError: torch is not installed, or this version cannot build the network.
        CheckpointError: the weights are missing or belong to another network.
    """
    try:
        from ovsdino.dinov3seg import model as networks
        from ovsdino.dinov3seg.checkpoint import read_model
        from ovsdino.dinov3seg.config import Dinov3segConfig
        from ovsdino.network.checkpoint import CheckpointError
    except ImportError as error:
        raise EngineError(
            f"the torch form needs {error.name}, which is not installed: {install_command('train')}"
        ) from error
    try:
        config = Dinov3segConfig.from_dict(bundle.manifest.model)
    except (ValueError, TypeError) as error:
        raise EngineError(f"{bundle.path}: its network is not one that this version can build") from error
    if checkpoint is not None:
        return read_model(config, checkpoint)
    if random_weights:
        return networks.Dinov3Seg(config).eval()
    raise CheckpointError(
        f"{config.name} has no public weights: give the checkpoint that the bundle was exported from "
        "(--checkpoint FILE)"
    )


def torch_parts(network: Dinov3Seg) -> dict[str, Callable[..., Any]]:
    """Return the part of a network that corresponds to each graph."""
    import torch

    from ovsdino.dinov3seg.correlation import correlate, text_halves

    def vision(pixels: Tensor) -> Tensor:
        return network.vlm.vision(pixels)

    def refine(pixels: Tensor, features: Tensor) -> Tensor:
        return network.refine_patches(pixels, features)

    def guidance(pixels: Tensor) -> tuple[Tensor, ...]:
        prior, grid = network.see_prior(pixels), [pixels.shape[-1] // network.config.vlm.patch_size] * 2
        maps = network.guide_by_image(prior, grid), *network.decoder.guide(prior, grid)
        return tuple(each for each in maps if each is not None)

    def late(features: Tensor, text: Tensor, image: Tensor | None = None) -> Tensor:
        halves = text_halves(text, network.config)  # (n, P, D)
        known = torch.ones(1, len(text), dtype=torch.bool)
        return network.refine_costs(correlate(features, halves), image, halves=halves[None], known=known)[0]

    def decoder(costs: Tensor, fine1: Tensor | None = None, fine2: Tensor | None = None) -> Tensor:
        return network.decoder.upsample(costs, fine1, fine2)

    return {
        "vision": vision,
        "whole": vision,
        "guidance": guidance,
        "refine": refine,
        "late": late,
        "decoder": decoder,
    }
