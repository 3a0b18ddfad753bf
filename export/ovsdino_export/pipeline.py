"""The exported graphs: what each ONNX file of a bundle computes.

`VisionPipeline`, `TextPipeline` and `ProjectionPipeline` define the computation; `shipped_vision` applies
every rewrite between the network and ``vision*.onnx``. dinov3.seg's graphs are in
`ovsdino_export.dinov3seg.pipelines`.
"""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from ovsdino.network.head import unit
from ovsdino_export.graphs.local_functions import call_functions
from ovsdino_export.networks import Network, restate_network
from ovsdino_export.rewrite.called_attention import call_attention
from ovsdino_export.rewrite.fold_layerscale import fold_layerscale
from ovsdino_export.rewrite.half_precision import TYPES, to_half
from ovsdino_export.rewrite.rewrite import restate
from ovsdino_runtime.base.options import Precision


class VisionPipeline(nn.Module):
    """vision.onnx, vision.fp16.onnx and vision.bf16.onnx: pixels to unit-length features.

    Args:
        model: the trained network; it is copied.
        precision: precision of products and convolutions; inputs and outputs are always FP32.
        fp32: layers that stay in FP32, as in `ovsdino_export.rewrite.half_precision.to_half`.

    Shape: pixels (B, 3, S, S) float32, normalised with the config's mean and std -> features (B, D, h, w)
        float32, of unit length along D.
    """

    def __init__(self, model: Network, precision: Precision = "fp32", *, fp32: Collection[str] = ()) -> None:
        super().__init__()
        restated = restate_network(model)
        self.dtype = TYPES[precision]
        self.network = restated if precision == "fp32" else to_half(restated, self.dtype, fp32=fp32)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode normalised windows."""
        features = self.network(pixels.to(self.dtype))  # (B, D, h, w)
        return unit(features)  # FP32: the squares of D values overflow FP16


def shipped_vision(
    model: Network, precision: Precision, *, fp32: Collection[str] = (), inline: bool = False
) -> VisionPipeline:
    """Return the pipeline that is exported as a bundle's vision graph, with all rewrites in order.

    1. `restate_network`: attentions written out, positions fixed to the window's grid.
    2. `to_half`, of FP16 and BF16 graphs: products and convolutions in half precision, the rest in FP32.
    3. `fold_layerscale`, of FP32 graphs: LayerScale and GELU's constants go into the weights around them.
    4. `call_attention`: each attention is one operator, which ONNX Runtime and TensorRT for RTX fuse.
    5. `call_functions`: depthwise blocks and the gate are local functions, which CUDA kernels may replace.

    `VisionPipeline` itself does 1 and 2. The results equal the network's up to rounding.

    Args:
        model: the trained network; it is copied.
        precision: precision of products and convolutions.
        fp32: layers that stay in FP32.
        inline: whether to skip 3 to 5, so that the graph contains only standard operators.
    """
    pipeline = VisionPipeline(model, precision, fp32=fp32)
    if inline:
        return pipeline
    if precision == "fp32":  # folded into a half-precision weight, a LayerScale of 1e-5 would be lost
        pipeline = fold_layerscale(pipeline)
    return call_functions(call_attention(pipeline))


class TextPipeline(nn.Module):
    """text.onnx: token ids to embeddings, in FP32.

    Args:
        tower: the text encoder, which ignores padding; it is copied. Its output has unit length, unless a
            projection follows the mean over prompts.

    Shape: ids (B, T) int64 -> embeddings (B, D) float32.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = restate(tower)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token ids."""
        return self.tower(ids)  # type: ignore[no-any-return]


class ProjectionPipeline(nn.Module):
    """projection.onnx: averaged features of the text graph to class embeddings, in FP32.

    Args:
        projection: projects and normalises.

    Shape: means (N, C) float32 -> embeddings (N, D) float32, of unit length.
    """

    def __init__(self, projection: nn.Module) -> None:
        super().__init__()
        self.projection = projection

    def forward(self, means: Tensor) -> Tensor:
        """Project the means."""
        return self.projection(means)  # type: ignore[no-any-return]
