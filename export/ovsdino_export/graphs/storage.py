"""How weights lie in the files: as FP16 where no bit is lost, and once, also where torch reads them too."""

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
    """Store weights as FP16 with a Cast behind them, where that loses no bit.

    Engines fold the cast when they load the graph. All weights of a checkpoint in FP16, such as nano's,
    qualify; hardly any of others do.

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


@dataclass(frozen=True)
class Place:
    """Where a tensor's bytes lie in a file."""

    file: str
    offset: int
    dims: tuple[int, ...]  # as they lie there
    transposed: bool = False  # the graph's tensor is this one's transpose


class Checkpoint:
    """A safetensors checkpoint that lies beside the graphs and holds most of their weights.

    Torch reads the file as a checkpoint; a graph reads the same bytes as external data. So the weights of a
    bundle lie in it once, in the layout and under the names of torch.

    Args:
        path: the file, in the folder of the graphs.
    """

    def __init__(self, path: Path) -> None:
        self._places: dict[bytes, Place] = {}
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
                self._places[turned] = Place(path.name, first, dims, transposed=True)
            self._places[hashlib.sha256(raw[first:stop]).digest()] = Place(path.name, first, dims)

    def find(self, digest: bytes, dims: Sequence[int]) -> Place | None:
        """Find a tensor by the SHA-256 of its bytes; None if the checkpoint does not hold it."""
        place = self._places.get(digest)
        if place is None or (place.transposed and place.dims[::-1] != tuple(dims)):
            return None
        return place


class WeightFile:
    """A file of weights beside the graphs that share it, each distinct tensor once; closed by ``with``.

    Args:
        path: where what no checkpoint holds is written; no file is made where nothing is left over.
        checkpoint: holds the other weights already.
    """

    def __init__(self, path: Path, checkpoint: Checkpoint | None = None) -> None:
        self.path = path
        self._checkpoint = checkpoint
        self._data: BinaryIO | None = None
        self._places: dict[bytes, Place] = {}

    def __enter__(self) -> WeightFile:
        """Return the file, to be filled."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it; the graphs can be read from now on."""
        if self._data is not None:
            self._data.close()

    def save(self, model: onnx.ModelProto, name: str) -> None:
        """Move a graph's weights, in place, into the file, and write the graph beside it under that name."""
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

    def _place(self, raw: bytes, dims: Sequence[int]) -> Place:
        digest = hashlib.sha256(raw).digest()
        if self._checkpoint is not None and (held := self._checkpoint.find(digest, dims)):
            return held
        if digest not in self._places:
            self._data = self._data or self.path.open("wb")
            self._data.write(bytes(-self._data.tell() % ALIGNMENT))
            self._places[digest] = Place(self.path.name, self._data.tell(), tuple(dims))
            self._data.write(raw)
        return self._places[digest]


def save_sharing_weights(
    models: Mapping[str, onnx.ModelProto],
    folder: Path,
    data_file: str,
    *,
    checkpoint: Checkpoint | None = None,
) -> None:
    """Write graphs that keep their weights in one file beside them, each distinct tensor once.

    Args:
        models: file name to graph; the graphs' weights are moved out in place.
        folder: where everything is written.
        data_file: name of the file of weights.
        checkpoint: a file in the folder that holds weights already; the graphs read those from there.
    """
    with WeightFile(folder / data_file, checkpoint) as weights:
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
