"""A tiny model as a real bundle: its vision graph sees colours, its text graph knows their names.

Both are ONNX graphs that ONNX Runtime runs; the tokenizer is one of the `tokenizers` library.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from ovsdino_runtime.bundle.bundle import (
    Bundle,
    Graph,
    Head,
    Manifest,
    Parity,
    ParityThresholds,
    Tensor,
    TextInfo,
    write_bundle,
)
from ovsdino_runtime.bundle.manifest import SCHEMA_VERSION
from ovsdino_runtime.geometry.preprocess import Preprocessing
from ovsdino_runtime.geometry.windows import WindowPolicy
from tests.runtime.words import PACKAGED

SIZE, PATCH, WIDTH = 64, 8, 6
COLOURS = {  # RGB in -1..1, as the network sees them
    "red": (1, -1, -1),
    "green": (-1, 1, -1),
    "blue": (-1, -1, 1),
    "yellow": (1, 1, -1),
    "white": (1, 1, 1),
    "black": (-1, -1, -1),
}
WORDS = [
    "[PAD]",
    "[UNK]",
    "a",
    "the",
    *COLOURS,
    *(f"word{i}" for i in range(1000)),
    *sorted(PACKAGED - {"a", "the", *COLOURS}),
]


def _model(nodes, inputs, outputs, weights) -> bytes:
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return model.SerializeToString()


def vision_graph() -> bytes:
    """Mean colour of each patch, unit length. Channels above the third are zero."""
    kernel = np.zeros((WIDTH, 3, PATCH, PATCH), np.float32)
    for channel in range(3):
        kernel[channel, channel] = 1 / PATCH**2
    nodes = [
        helper.make_node("Conv", ["pixels", "kernel"], ["mean"], strides=[PATCH, PATCH]),
        helper.make_node("ReduceL2", ["mean"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["mean", "divisor"], ["features"]),
    ]
    grid = SIZE // PATCH
    return _model(
        nodes,
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["batch", WIDTH, grid, grid])],
        {"kernel": kernel, "least": np.float32([1e-6])},
    )


def text_graph() -> bytes:
    """Mean embedding of the words that are not padding, unit length. Articles have none."""
    table = np.random.default_rng(0).normal(size=(len(WORDS), WIDTH)).astype(np.float32)
    table[:4] = 0
    for word, colour in COLOURS.items():
        table[WORDS.index(word)] = (*colour, 0, 0, 0)
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["embedded"]),
        helper.make_node("Equal", ["ids", "pad"], ["padding"]),
        helper.make_node("Not", ["padding"], ["kept"]),
        helper.make_node("Cast", ["kept"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["weights"]),
        helper.make_node("Mul", ["embedded", "weights"], ["masked"]),
        helper.make_node("ReduceSum", ["masked", "tokens"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Max", ["length", "least"], ["divisor"]),
        helper.make_node("Div", ["sum", "divisor"], ["embeddings"]),
    ]
    return _model(
        nodes,
        [helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "tokens"])],
        [helper.make_tensor_value_info("embeddings", TensorProto.FLOAT, ["batch", WIDTH])],
        {
            "table": table,
            "pad": np.int64([0]),
            "last": np.int64([-1]),
            "tokens": np.int64([1]),
            "least": np.float32([1e-6]),
        },
    )


def _stage(folder: Path) -> None:
    (folder / "vision.onnx").write_bytes(vision_graph())
    (folder / "text.onnx").write_bytes(text_graph())
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    tokenizer.save(str(folder / "tokenizer.json"))
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    patches = (image / 127.5 - 1).reshape(SIZE // PATCH, PATCH, SIZE // PATCH, PATCH, 3).mean(axis=(1, 3))
    features = np.zeros((WIDTH, SIZE // PATCH, SIZE // PATCH), np.float16)
    features[:3] = (patches / np.linalg.norm(patches, axis=2, keepdims=True)).transpose(2, 0, 1)
    np.savez(folder / "golden.npz", image=image, features=features)


def tiny_manifest() -> Manifest:
    grid = SIZE // PATCH
    pixels = Tensor("pixels", "float32", ("batch", 3, SIZE, SIZE))
    features = Tensor("features", "float32", ("batch", WIDTH, grid, grid))
    ids, embeddings = (
        Tensor("ids", "int64", ("batch", "tokens")),
        Tensor("embeddings", "float32", ("batch", WIDTH)),
    )
    return Manifest(
        schema_version=SCHEMA_VERSION,
        name="tiny",
        model={"patch_size": PATCH, "taps": [1, 2], "nested": {"gate": True, "rate": None}},
        preprocessing=Preprocessing(SIZE, 4 * SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        windows=WindowPolicy(SIZE, SIZE // 2),
        head=Head(scale=10.0, bias=-2.5, background=0.5),
        templates=("a {}", "the {}"),
        text=TextInfo(WIDTH, 16),
        graphs={
            "vision": Graph(file="vision.onnx", precision="fp32", inputs=(pixels,), outputs=(features,)),
            "text": Graph(file="text.onnx", precision="fp32", inputs=(ids,), outputs=(embeddings,)),
        },
        parity={
            "vision": Parity(
                cosine_mean=1.0,
                cosine_p01=0.9999,
                label_agreement=1.0,
                finite=True,
                photos=5,
                thresholds=ParityThresholds(0.9999, 0.0, 0.999),
            )
        },
        licences=("Apache-2.0",),
        made_by={"onnx": onnx.__version__},
    )


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    """Every test has a cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("OVSDINO_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def staging(tmp_path_factory) -> Path:
    """The files of the tiny bundle, before they are one."""
    folder = tmp_path_factory.mktemp("staging")
    _stage(folder)
    return folder


@pytest.fixture(scope="session")
def shared_bundle(staging, tmp_path_factory) -> Bundle:
    """The tiny bundle; do not change it."""
    return write_bundle(tmp_path_factory.mktemp("bundles") / "tiny.ovs", tiny_manifest(), staging)


@pytest.fixture
def bundle(staging, tmp_path) -> Bundle:
    """A tiny bundle to damage."""
    return write_bundle(tmp_path / "tiny.ovs", tiny_manifest(), staging)


@pytest.fixture
def manifest() -> Manifest:
    return tiny_manifest()


@pytest.fixture
def flag() -> np.ndarray:
    """A photo (90, 150, 3) of three upright stripes: red, green, blue."""
    photo = np.zeros((90, 150, 3), np.uint8)
    for stripe in range(3):
        photo[:, 50 * stripe : 50 * stripe + 50, stripe] = 255
    return photo


@pytest.fixture
def flag_file(flag, tmp_path) -> Path:
    from PIL import Image

    path = tmp_path / "flag.png"
    Image.fromarray(flag).save(path)
    return path
