"""How weights lie in the files: half the size where nothing is lost, and once where two graphs share them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

MIN_VALUES = 256  # smaller tensors are not worth a Cast
LARGEST = 2_000_000_000  # [bytes] of weights in a graph: protobuf ends at 2 GiB
MIN_BYTES = 1024  # smaller tensors stay inside their graph
ALIGNMENT = 64  # [bytes] of tensors in a data file
STORED = "/fp16"  # suffix of the name under which a tensor is stored as FP16


def store_as_half(model: onnx.ModelProto) -> int:
    """Store weights as FP16 and cast them back, wherever that gives every one of their bits back.

    Engines fold the cast when they load the graph. Weights that were saved as FP16, as nano's are, all
    qualify; of others hardly any.

    Args:
        model: changed in place.

    Returns:
        How many tensors are stored so.
    """
    graph = model.graph
    casts = []
    for tensor in graph.initializer:
        if tensor.data_type != TensorProto.FLOAT:
            continue
        values = numpy_helper.to_array(tensor)
        half = as_half(values) if values.size >= MIN_VALUES else None
        if half is None:
            continue
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(half, name + STORED))
        casts.append(
            helper.make_node("Cast", [name + STORED], [name], name=f"widen {name}", to=TensorProto.FLOAT)
        )
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    return len(casts)


def as_half(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float16] | None:
    """Return the values in FP16 if each of their bits survives, else None."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    same = half.astype(np.float32).view(np.uint32) == values.view(np.uint32)
    return half if bool(same.all()) else None


class WeightFile:
    """A file of weights beside the graphs that share it, each distinct tensor once; closed by ``with``.

    Args:
        path: where it is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._data = path.open("wb")
        self._places: dict[bytes, int] = {}

    def __enter__(self) -> WeightFile:
        """Return the file, to be filled."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; the graphs can be read from now on."""
        self._data.close()

    def save(self, model: onnx.ModelProto, name: str) -> None:
        """Move a graph's weights, in place, into the file, and write the graph beside it under that name."""
        for tensor in model.graph.initializer:
            stored = tensor.HasField("raw_data")  # as it is: some versions of onnx widen BF16 to FP32
            raw = tensor.raw_data if stored else numpy_helper.to_array(tensor).tobytes()
            if len(raw) < MIN_BYTES:
                continue
            kind, dims, own = tensor.data_type, list(tensor.dims), tensor.name
            tensor.Clear()
            tensor.data_type, tensor.name, tensor.raw_data = kind, own, b""
            tensor.dims.extend(dims)
            external_data_helper.set_external_data(
                tensor, self.path.name, offset=self._place(raw), length=len(raw)
            )
            tensor.ClearField("raw_data")
        self._data.flush()
        file = self.path.with_name(name)
        file.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(file))

    def _place(self, raw: bytes) -> int:
        digest = hashlib.sha256(raw).digest()
        if digest not in self._places:
            self._data.write(bytes(-self._data.tell() % ALIGNMENT))
            self._places[digest] = self._data.tell()
            self._data.write(raw)
        return self._places[digest]


def save_sharing_weights(models: Mapping[str, onnx.ModelProto], folder: Path, data_file: str) -> None:
    """Write graphs that keep their weights in one file beside them, each distinct tensor once.

    Args:
        models: file name to graph; the graphs' weights are moved out in place.
        folder: where everything is written.
        data_file: name of the file of weights.
    """
    with WeightFile(folder / data_file) as weights:
        for name, model in models.items():
            weights.save(model, name)


def save_alone(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights inside or, if protobuf cannot hold them, in NAME.data."""
    if weight_bytes(model) < LARGEST:
        onnx.save(model, path)
    else:
        save_sharing_weights({path.name: model}, path.parent, f"{path.stem}.data")


def weight_bytes(model: onnx.ModelProto) -> int:
    """Add up the weights inside a graph [bytes]."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)
