"""The graphs that ship: each class is one ONNX file, and its `forward` is exactly what the file computes."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from ovsdino.network.head import unit
from ovsdino_export.networks import Network, restate_network
from ovsdino_export.rewrite.half_precision import TYPES, to_half
from ovsdino_export.rewrite.rewrite import restate
from ovsdino_runtime.base.options import Precision


class VisionPipeline(nn.Module):
    """vision.onnx and vision.fp16.onnx: pixels to unit-length features.

    Args:
        model: the trained network; it is copied.
        precision: what the products and convolutions compute in; inputs and outputs are FP32 either way.
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


class TextPipeline(nn.Module):
    """text.onnx: token numbers to embeddings, in FP32.

    Args:
        tower: the text encoder, which ignores padding; it is copied. Its output is of unit length, unless a
            projection follows the mean over prompts.

    Shape: ids (B, T) int64 -> embeddings (B, D) float32.
    """

    def __init__(self, tower: nn.Module) -> None:
        super().__init__()
        self.tower = restate(tower)

    def forward(self, ids: Tensor) -> Tensor:
        """Encode token numbers."""
        return self.tower(ids)  # type: ignore[no-any-return]


class ProjectionPipeline(nn.Module):
    """projection.onnx: means of the text graph's features to class embeddings, in FP32.

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
