"""Inspect networks and engines: kinds of layers, their types, inputs and outputs.

TensorRT 11 dropped its FP16 flag, and tools that relied on it silently built FP32 engines. A missing
precision is therefore an error here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.base.options import Precision
from ovsdino_runtime.bundle.bundle import Graph
from ovsdino_runtime.engines.tensorrt_library import Trt

PRODUCTS = {"MATRIX_MULTIPLY", "CONVOLUTION", "ATTENTION_INPUT"}  # the last one is a whole attention
STATISTICS = {"NORMALIZATION", "SOFTMAX"}
TYPES: dict[Precision, str] = {"fp32": "FLOAT", "fp16": "HALF", "bf16": "BF16"}
NUMPY_TYPES = {"float32": "FLOAT", "int64": "INT64"}
DYNAMIC = -1  # TensorRT's mark of a dimension that varies
TYPE_WORDS = {  # as the inspector writes them, in lower case
    "half": "HALF",
    "fp16": "HALF",
    "bf16": "BF16",
    "bfloat16": "BF16",
    "float": "FLOAT",
    "fp32": "FLOAT",
}
MIN_SHARE = 0.5  # of the products in the precision that was asked for; the others were kept in FP32


@dataclass(frozen=True)
class Layer:
    """A layer: name, kind in capitals, and type in which it computes."""

    name: str
    kind: str
    dtype: str


def network_layers(network: Trt) -> list[Layer]:
    """List the layers of a network. It is strongly typed, so the engine has the same types."""
    layers = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensor = layer.get_input(0) if layer.num_inputs else layer.get_output(0)
        kind = layer.type.name
        layers.append(Layer(layer.name, kind, tensor.dtype.name if tensor is not None else "NONE"))
    return layers


def engine_layers(inspected: str) -> list[Layer]:
    """List the layers in the JSON of the engine inspector, which needs detailed profiling verbosity.

    Fused layers have their own names. The type is that of the first output with a type; for norms and softmax
    that of the input, because a following cast may be fused into the output.
    """
    described = json.loads(inspected).get("Layers", [])
    return [
        Layer(layer.get("Name", ""), layer.get("LayerType", "").upper(), _type_of(layer))
        for layer in described
        if isinstance(layer, dict)  # names alone: the engine was built without details
    ]


def check_layers(layers: Iterable[Layer], precision: Precision, where: str) -> None:
    """Reject a network or engine that does not compute in the requested precision.

    Args:
        layers: result of `network_layers` or `engine_layers`.
        precision: required precision of matrix products.
        where: name of the network or engine, for the message.

    Raises:
        EngineError: fewer than half of the products have the precision, a product has neither it nor FP32, or
            a norm or softmax is below FP32.
    """
    layers = list(layers)
    wanted = TYPES[precision]
    products = [layer for layer in layers if layer.kind in PRODUCTS]
    types = Counter(layer.dtype for layer in products or layers)  # fused layers are no longer called products
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(types.items())) or "none"
    enough = types[wanted] >= MIN_SHARE * sum(types.values()) if products else types[wanted] > 0
    if not enough:
        raise EngineError(
            f"{where}: {precision} was asked for and too few products compute in it (types found: {kinds}); "
            "use another version of TensorRT, or export in FP32"
        )
    if products and (others := sorted(types.keys() - {wanted, "FLOAT"})):
        raise EngineError(
            f"{where}: {precision} was asked for and {types[others[0]]} products compute in {others[0]} "
            f"(types found: {kinds}); use another version of TensorRT"
        )
    low = [layer for layer in layers if layer.kind in STATISTICS and layer.dtype in ("HALF", "BF16")]
    if low:
        raise EngineError(f"{where}: {low[0].kind} {low[0].name} computes in {low[0].dtype}, expected FLOAT")


def check_tensors(tensors: Mapping[str, tuple[str, tuple[int, ...]]], graph: Graph, where: str) -> None:
    """Compare types and shapes of inputs and outputs with the manifest.

    Raises:
        EngineError: they differ; the message names the tensor with both descriptions.
    """
    declared = {
        tensor.name: (
            NUMPY_TYPES.get(tensor.dtype, tensor.dtype),
            tuple(DYNAMIC if isinstance(side, str) else side for side in tensor.shape),
        )
        for tensor in (*graph.inputs, *graph.outputs)
    }
    for name in sorted(declared.keys() | tensors.keys()):
        if tensors.get(name) != declared.get(name):
            raise EngineError(
                f"{where}: tensor {name} is {tensors.get(name, 'missing')}, the manifest says "
                f"{declared.get(name, 'there is none')}; export the model again"
            )


def _type_of(layer: dict[str, Any]) -> str:
    side = "Inputs" if str(layer.get("LayerType", "")).upper() in STATISTICS else "Outputs"
    for tensor in layer.get(side, []) or layer.get("Outputs", []):
        text = str(tensor.get("Format/Datatype", tensor.get("Datatype", ""))).lower()
        for word, dtype in TYPE_WORDS.items():
            if word in text.replace("-", " ").split():
                return dtype
    return "NONE"
