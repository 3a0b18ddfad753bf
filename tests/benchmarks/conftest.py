"""A tiny model as a real bundle, which tells red, green and blue apart, and labelled photos for it."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers

from ovsdino_benchmarks.latency import roofline as floor
from ovsdino_runtime.bundle.bundle import Graph, Head, Manifest, Tensor, TextInfo, write_bundle
from ovsdino_runtime.bundle.manifest import SCHEMA_VERSION
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.windows import WindowPolicy
from tests.runtime.words import PACKAGED

SIZE, PATCH, WIDTH = 32, 8, 4
GRID = SIZE // PATCH
COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}
WORDS = ["[PAD]", "[UNK]", "a", *COLOURS, *sorted(PACKAGED - {"a", *COLOURS})]


def _graph(nodes, inputs, outputs, weights) -> bytes:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _unit(source: str, result: str, axis: int) -> list[onnx.NodeProto]:
    return [
        helper.make_node("ReduceL2", [source], [f"{source}_length"], axes=[axis], keepdims=1),
        helper.make_node("Max", [f"{source}_length", "least"], [f"{source}_divisor"]),
        helper.make_node("Div", [source, f"{source}_divisor"], [result]),
    ]


def vision_graph() -> bytes:
    """Mean colour of each patch."""
    kernel = np.zeros((WIDTH, 3, PATCH, PATCH), np.float32)
    kernel[range(3), range(3)] = 1 / PATCH**2
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", WIDTH, GRID, GRID])
    nodes = [helper.make_node("Conv", ["pixels", "kernel"], ["mean"], strides=[PATCH, PATCH])]
    return _graph(
        [*nodes, *_unit("mean", "features", 1)],
        [pixels],
        [features],
        {"kernel": kernel, "least": np.float32([1e-6])},
    )


def text_graph() -> bytes:
    """Sum of the words' colours."""
    table = np.zeros((len(WORDS), WIDTH), np.float32)
    table[1, 3] = table[3 + len(COLOURS) :, 3] = 1  # any other word is of no colour
    for word, colour in COLOURS.items():
        table[WORDS.index(word), :3] = colour
    ids = helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])
    embeddings = helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", WIDTH])
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("ReduceSum", ["embedded", "tokens"], ["sum"], keepdims=0),
    ]
    return _graph(
        [*nodes, *_unit("sum", "embeddings", 1)],
        [ids],
        [embeddings],
        {"table": table, "tokens": np.int64([1]), "least": np.float32([1e-6])},
    )


def _stage(folder: Path) -> None:
    (folder / "vision.onnx").write_bytes(vision_graph())
    (folder / "text.onnx").write_bytes(text_graph())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    patches = (image / 127.5 - 1).reshape(GRID, PATCH, GRID, PATCH, 3).mean(axis=(1, 3))
    features = np.zeros((WIDTH, GRID, GRID), np.float16)
    features[:3] = (patches / np.linalg.norm(patches, axis=2, keepdims=True)).transpose(2, 0, 1)
    np.savez(folder / "golden.npz", image=image, features=features)


def _manifest() -> Manifest:
    pixels = Tensor("pixels", "float32", ("batch", 3, SIZE, SIZE))
    features = Tensor("features", "float32", ("batch", WIDTH, GRID, GRID))
    ids = Tensor("ids", "int64", ("batch", "tokens"))
    embeddings = Tensor("embeddings", "float32", ("batch", WIDTH))
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        model={},
        preprocessing=Preprocessing(SIZE, 4 * SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        windows=WindowPolicy(SIZE, SIZE // 2),
        head=Head(scale=10.0, bias=-2.5, background=0.5),
        templates=("a {}",),
        text=TextInfo(WIDTH, 16),
        graphs={
            "vision": Graph(file="vision.onnx", precision="fp32", inputs=(pixels,), outputs=(features,)),
            "text": Graph(file="text.onnx", precision="fp32", inputs=(ids,), outputs=(embeddings,)),
        },
        parity={},
        licences=(),
        made_by={},
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Every test has a cache of its own, and is no rank of anything."""
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> str:
    """The path of the tiny bundle."""
    staging = tmp_path_factory.mktemp("staging")
    _stage(staging)
    return str(write_bundle(tmp_path_factory.mktemp("bundles") / "tiny.ovs", _manifest(), staging).path)


@pytest.fixture
def quick(monkeypatch):
    """Small products and copies where a machine's rates are measured."""
    monkeypatch.setattr(floor, "GEMMS", ((64, 64, 64),))
    monkeypatch.setattr(floor, "COPY_BYTES", 1 << 16)


@pytest.fixture
def stripes(tmp_path) -> Path:
    """A folder of 11 noisy photos of two coloured stripes, with their labels and names."""
    folder = tmp_path / "stripes"
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    (folder / "names.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    random = np.random.default_rng(3)
    for number in range(11):
        labels = np.zeros((40 + number, 60), np.uint8)
        labels[:, random.integers(10, 50) :] = random.integers(1, 3)
        labels[0, :5] = 255
        photo = 180 * np.eye(3, dtype=np.uint8)[np.minimum(labels, 2)] + random.integers(
            0, 70, (*labels.shape, 3)
        )
        Image.fromarray(photo.astype(np.uint8)).save(folder / f"images/{number}.png")
        Image.fromarray(labels).save(folder / f"labels/{number}.png")
    return folder
