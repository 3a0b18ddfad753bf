"""Store weights: as FP16 if that is lossless, and each only once, in the file that torch reads."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, external_data_helper, helper, numpy_helper

MIN_VALUES = 256  # smaller tensors are not worth a Cast
LARGEST = 2_000_000_000  # [bytes] of weights in a graph: protobuf ends at 2 GiB
MIN_BYTES = 1024  # smaller tensors stay inside their graph
ALIGNMENT = 64  # [bytes] of tensors in a data file
STORED = "/fp16"  # suffix of the name under which a tensor is stored as FP16
TURNED = "/transposed"  # suffix of the name under which a matrix is stored as torch holds it
SAFETENSORS_TYPES = {"F16": np.float16, "F32": np.float32}


def store_as_half(model: onnx.ModelProto) -> int:
    """Store weights as FP16 followed by a Cast, if that is lossless.

    Engines fold the cast when they load the graph. It applies to all weights of an FP16 checkpoint such as
    nano's, and to hardly any weights of others.

    Args:
        model: changed in place.

    Returns:
        The number of tensors stored as FP16.
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
    """Return the values in FP16 if that is lossless, else None."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    same = half.astype(np.float32).view(np.uint32) == values.view(np.uint32)
    return half if bool(same.all()) else None


@dataclass(frozen=True)
class TensorLocation:
    """The location of a tensor's bytes in a file."""

    file: str
    offset: int
    dims: tuple[int, ...]  # as they lie there
    transposed: bool = False  # the graph's tensor is this one's transpose


class Checkpoint:
    """A safetensors checkpoint beside the graphs that contains most of their weights.

    Torch reads the file as a checkpoint; graphs read the same bytes as external data. So the weights of a
    bundle are stored only once, with the layout and names of torch.

    Args:
        path: the file, in the folder of the graphs.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[bytes, TensorLocation] = {}
        raw = path.read_bytes()
        (length,) = struct.unpack("<Q", raw[:8])  # the format: a length, a JSON header, the tensors
        start = 8 + length
        for name, entry in json.loads(raw[8:start]).items():
            if name == "__metadata__":
                continue
            first, stop = (start + offset for offset in entry["data_offsets"])
            dims = tuple(entry["shape"])
            values = np.frombuffer(raw[first:stop], SAFETENSORS_TYPES[entry["dtype"]]).reshape(dims)
            if values.ndim == 2:
                turned = hashlib.sha256(values.T.tobytes()).digest()
                self._places[turned] = TensorLocation(path.name, first, dims, transposed=True)
            self._places[hashlib.sha256(raw[first:stop]).digest()] = TensorLocation(path.name, first, dims)

    def find(self, digest: bytes, dims: Sequence[int]) -> TensorLocation | None:
        """Find a tensor by the SHA-256 of its bytes; None if the checkpoint does not contain it."""
        place = self._places.get(digest)
        if place is None or (place.transposed and place.dims[::-1] != tuple(dims)):
            return None
        return place


class WeightFile:
    """A file of weights that graphs share; each distinct tensor is stored once. Use it with ``with``.

    Args:
        path: file for weights that the checkpoint does not contain; not written if there are none.
        checkpoint: contains the other weights.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint | None = None) -> None:
        self.path = path
        self._checkpoint = checkpoint
        self._data: BinaryIO | None = None
        self._places: dict[bytes, TensorLocation] = {}

    def __enter__(self) -> WeightFile:
        """Return the file."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file; now the graphs can be loaded."""
        if self._data is not None:
            self._data.close()

    def save(self, model: onnx.ModelProto, name: str) -> None:
        """Move the weights of a graph into the file, in place, and write the graph beside it."""
        turns = []
        for tensor in model.graph.initializer:
            stored = tensor.HasField("raw_data")  # as it is: some versions of onnx widen BF16 to FP32
            raw = tensor.raw_data if stored else numpy_helper.to_array(tensor).tobytes()
            if len(raw) < MIN_BYTES:
                continue
            place = self._place(raw, tensor.dims)
            kind, dims, own = tensor.data_type, list(tensor.dims), tensor.name
            if place.transposed:  # engines fold the Transpose of a constant when they load the graph
                turns.append(helper.make_node("Transpose", [own + TURNED], [own], name=f"turn {own}"))
                dims, own = dims[::-1], own + TURNED
            tensor.Clear()
            tensor.data_type, tensor.name, tensor.raw_data = kind, own, b""
            tensor.dims.extend(dims)
            external_data_helper.set_external_data(tensor, place.file, offset=place.offset, length=len(raw))
            tensor.ClearField("raw_data")
        nodes = [*turns, *model.graph.node]
        del model.graph.node[:]
        model.graph.node.extend(nodes)
        if self._data is not None:
            self._data.flush()
        file = self.path.with_name(name)
        file.write_bytes(model.SerializeToString(deterministic=True))
        onnx.checker.check_model(str(file))

    def _place(self, raw: bytes, dims: Sequence[int]) -> TensorLocation:
        digest = hashlib.sha256(raw).digest()
        if self._checkpoint is not None and (held := self._checkpoint.find(digest, dims)):
            return held
        if digest not in self._places:
            self._data = self._data or self.path.open("wb")
            self._data.write(bytes(-self._data.tell() % ALIGNMENT))
            self._places[digest] = TensorLocation(self.path.name, self._data.tell(), tuple(dims))
            self._data.write(raw)
        return self._places[digest]


def save_sharing_weights(
    models: Mapping[str, onnx.ModelProto],
    folder: Path,
    data_file: str,
    *,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Write graphs that share one file of weights, in which each distinct tensor is stored once.

    Args:
        models: graphs by file name; their weights are moved out in place.
        folder: the folder to write to.
        data_file: name of the file of weights.
        checkpoint: a file in the folder that contains weights already; graphs read them from there.
    """
    with WeightFile(folder / data_file, checkpoint) as weights:
        for name, model in models.items():
            weights.save(model, name)


def save_alone(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph with its weights inside or, if they exceed protobuf's limit, in NAME.data."""
    if weight_bytes(model) < LARGEST:
        onnx.save(model, path)
    else:
        save_sharing_weights({path.name: model}, path.parent, f"{path.stem}.data")


def weight_bytes(model: onnx.ModelProto) -> int:
    """Return the size of the weights inside a graph [bytes]."""
    return sum(len(tensor.raw_data) for tensor in model.graph.initializer)
