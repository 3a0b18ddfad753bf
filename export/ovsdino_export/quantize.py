"""INT8 for ONNX Runtime on a CPU: the products of attention and MLPs, their inputs scaled as they come.

Dynamic, so no calibration is needed; convolutions and all else stay in FP32. It is accepted only where labels
hardly change: see `ovsdino_export.parity.THRESHOLDS` and `require_miou`.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx

from ovsdino_export.parity import ParityError

MOST_DROP = 1.0  # points of mIoU that INT8 may cost


def quantize(model: onnx.ModelProto) -> onnx.ModelProto:
    """Quantize the products of a graph with constant weights: INT8 weights for each channel, uint8 inputs.

    Weights keep 7 bits, because processors without VNNI add two products in 16 bits, which overflow with 8.

    Args:
        model: FP32, with its weights inside and stored as FP32; it is left as it was.

    Raises:
        ParityError: it has no such product.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = onnx.inliner.inline_local_functions(model)
    with tempfile.TemporaryDirectory(prefix="ovsdino-int8-") as folder, _quiet():
        source, target = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(plain, source, save_as_external_data=True, location="fp32.data")  # a ViT-L is over 2 GB
        quantize_dynamic(
            source,
            target,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        quantized = onnx.load(target)
    if not any(node.op_type == "MatMulInteger" for node in quantized.graph.node):
        raise ParityError("the graph has no product with constant weights; export without --int8")
    return quantized


def require_miou(reference: float, quantized: float) -> None:
    """Refuse INT8 that costs more than a point of mIoU, measured by ``ovsdino evaluate`` on labelled photos.

    Args:
        reference, quantized: mIoU in 0..100 of the FP32 and of the INT8 graph, on the same photos.

    Raises:
        ParityError: it does.
    """
    if reference - quantized > MOST_DROP:
        raise ParityError(
            f"INT8 has {quantized:.2f} mIoU, FP32 {reference:.2f}: a drop of {reference - quantized:.2f}, "
            f"at most {MOST_DROP} is accepted; export without --int8"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the quantizer's advice about a preprocessing that our graphs do not need off the screen."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
