"""A dinov3.seg bundle whose graphs a reader can follow: patches are mean colours, words are colours.

Every graph of the real thing is there, written with `onnx.helper`, and `slow_logits` restates their chain.
"""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer, models, pre_tokenizers

from ovsdino_runtime.bundle.bundle import Bundle, Graph, Head, Manifest, Tensor, TextInfo, write_bundle
from ovsdino_runtime.bundle.manifest import SCHEMA_VERSION, Dinov3seg
from ovsdino_runtime.geometry.preprocess import Preprocessing, resize_bilinear
from ovsdino_runtime.geometry.windows import WindowPolicy
from tests.runtime.words import PACKAGED

VIEW, WINDOW, STRIDE, PATCH, WIDTH = 64, 32, 16, 8, 4
GRID = VIEW // PATCH
COLOURS = {"red": (1, -1, -1), "green": (-1, 1, -1), "blue": (-1, -1, 1)}
WORDS = ["[PAD]", "[UNK]", "a", *COLOURS, *(f"word{number}" for number in range(40))]
WORDS += sorted(PACKAGED - {"a", *COLOURS})
INPUTS = {
    "vision": {"pixels": ("batch", 3, WINDOW, WINDOW)},
    "whole": {"pixels": (1, 3, VIEW, VIEW)},
    "guidance": {"pixels": (1, 3, VIEW, VIEW)},
    "refine": {"pixels": (1, 3, VIEW, VIEW), "features": (1, WIDTH, GRID, GRID)},
    "late": {
        "features": (1, WIDTH, GRID, GRID),
        "text": ("classes", 2 * WIDTH),
        "image": (1, 1, GRID, GRID),
    },
    "decoder": {
        "costs": ("classes", 2, GRID, GRID),
        "fine1": (1, 1, 2 * GRID, 2 * GRID),
        "fine2": (1, 1, 4 * GRID, 4 * GRID),
    },
    "text": {"ids": ("batch", "tokens")},
}
OUTPUTS = {
    "vision": {"features": ("batch", WIDTH, WINDOW // PATCH, WINDOW // PATCH)},
    "whole": {"features": (1, WIDTH, GRID, GRID)},
    "guidance": {
        "image": (1, 1, GRID, GRID),
        "fine1": (1, 1, 2 * GRID, 2 * GRID),
        "fine2": (1, 1, 4 * GRID, 4 * GRID),
    },
    "refine": {"refined": (1, WIDTH, GRID, GRID)},
    "late": {"costs": ("classes", 2, GRID, GRID)},
    "decoder": {"logits": ("classes", 4 * GRID, 4 * GRID)},
    "text": {"embeddings": ("batch", 2 * WIDTH)},
}


def kernel() -> np.ndarray:
    weights = np.zeros((WIDTH, 3, PATCH, PATCH), np.float32)
    weights[range(3), range(3)] = 1 / PATCH**2
    return weights


def table() -> np.ndarray:
    """Each word's embedding, twice: the global and the local half."""
    half = np.random.default_rng(0).normal(size=(len(WORDS), WIDTH)).astype(np.float32)
    half[:3] = 0
    half[1, 3] = 1
    for word, colour in COLOURS.items():
        half[WORDS.index(word)] = (*colour, 0)
    return np.concatenate([half, half], axis=1)


def _cosine(half: str, start: int) -> list[onnx.NodeProto]:
    """Cosine of all patches, already unit length and (D, L), with one half of the text."""
    stop = start + WIDTH
    return [
        helper.make_node(
            "Slice", ["text", f"start{start}", f"start{stop}", "one"], [f"{half}_columns"], name=half
        ),
        helper.make_node("LpNormalization", [f"{half}_columns"], [f"{half}_unit"], axis=1, p=2),
        helper.make_node("MatMul", [f"{half}_unit", "patches"], [f"{half}_flat"]),
        helper.make_node("Reshape", [f"{half}_flat", "map"], [f"{half}_map"]),
    ]


def nodes_of(name: str) -> list[onnx.NodeProto]:
    make = helper.make_node
    patches = [make("Conv", ["pixels", "kernel"], ["features"], strides=[PATCH, PATCH])]
    pool = {"image": PATCH, "fine1": PATCH // 2, "fine2": PATCH // 4}
    return {
        "vision": patches,
        "whole": patches,
        "guidance": [make("ReduceMean", ["pixels"], ["grey"], axes=[1], keepdims=1)]
        + [
            make("AveragePool", ["grey"], [out], kernel_shape=[side] * 2, strides=[side] * 2)
            for out, side in pool.items()
        ],
        "refine": [make("Identity", ["features"], ["refined"])],
        "late": [
            make("LpNormalization", ["features"], ["unit"], axis=1, p=2),
            make("Reshape", ["unit", "flat"], ["patches"]),
            *_cosine("global", 0),
            *_cosine("local", WIDTH),
            make("Concat", ["global_map", "local_map"], ["cosines"], axis=1),
            make("Mul", ["image", "nothing"], ["unused"]),
            make("Add", ["cosines", "unused"], ["costs"]),
        ],
        "decoder": [
            make("ReduceMean", ["costs"], ["mean"], axes=[1], keepdims=1),
            make("Mul", ["mean", "ten"], ["scaled"]),
            make("Resize", ["scaled", "", "scales"], ["large"], mode="linear"),
            make("Mul", ["fine2", "edge"], ["edges"]),
            make("Add", ["large", "edges"], ["all"]),
            make("Squeeze", ["all", "channel"], ["logits"]),
        ],
        "text": [
            make("Gather", ["table", "ids"], ["embedded"]),
            make("ReduceSum", ["embedded", "tokens"], ["embeddings"], keepdims=0),
        ],
    }[name]


def weights_of(name: str) -> dict[str, np.ndarray]:
    return {
        "vision": {"kernel": kernel()},
        "whole": {"kernel": kernel()},
        "late": {
            **{f"start{value}": np.int64([value]) for value in (0, WIDTH, 2 * WIDTH)},
            "one": np.int64([1]),
            "flat": np.int64([WIDTH, GRID * GRID]),
            "map": np.int64([-1, 1, GRID, GRID]),
            "nothing": np.float32([0]),
        },
        "decoder": {
            "ten": np.float32([10]),
            "scales": np.float32([1, 1, 4, 4]),
            "edge": np.float32([0.01]),
            "channel": np.int64([1]),
        },
        "text": {"table": table(), "tokens": np.int64([1])},
    }.get(name, {})


def write_graph(name: str, file: Path) -> None:
    kind = TensorProto.INT64 if name == "text" else TensorProto.FLOAT
    inputs = [helper.make_tensor_value_info(key, kind, shape) for key, shape in INPUTS[name].items()]
    outputs = [
        helper.make_tensor_value_info(key, TensorProto.FLOAT, shape) for key, shape in OUTPUTS[name].items()
    ]
    tensors = [numpy_helper.from_array(value, key) for key, value in weights_of(name).items()]
    graph = helper.make_graph(nodes_of(name), name, inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    file.write_bytes(model.SerializeToString())


def slow_logits(view: np.ndarray, text: np.ndarray) -> np.ndarray:
    """The chain of all graphs. Colours of patches are the same in windows and in the whole.

    Shape: view (V, V, 3) in 0..255, text (n, 2D) -> (n, 4g, 4g).
    """
    pixels = view / 127.5 - 1
    colours = pixels.reshape(GRID, PATCH, GRID, PATCH, 3).mean(axis=(1, 3))
    patches = np.concatenate([colours, np.zeros((GRID, GRID, 1))], axis=2)
    patches /= np.linalg.norm(patches, axis=2, keepdims=True)
    side = PATCH // 4
    grey = pixels.mean(axis=2).reshape(4 * GRID, side, 4 * GRID, side).mean(axis=(1, 3))
    logits = []
    for row in text:
        halves = [half / np.linalg.norm(half) for half in (row[:WIDTH], row[WIDTH:])]
        cosine = np.mean([patches @ half for half in halves], axis=0)  # (g, g)
        large = resize_bilinear(10 * cosine.astype(np.float32), 4 * GRID, 4 * GRID)
        logits.append(large + 0.01 * grey)
    return np.stack(logits).astype(np.float32)


def dinov3seg_manifest(**changes) -> Manifest:
    def tensors(shapes, kind="float32"):
        return tuple(Tensor(key, kind, shape) for key, shape in shapes.items())

    graphs = {
        name: Graph(
            file=f"{name}.onnx",
            precision="fp32",
            inputs=tensors(INPUTS[name], "int64" if name == "text" else "float32"),
            outputs=tensors(OUTPUTS[name]),
        )
        for name in INPUTS
    }
    fields = {
        "schema_version": SCHEMA_VERSION,
        "name": "colours",
        "model": {},
        "preprocessing": Preprocessing(VIEW, VIEW, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)),
        "windows": WindowPolicy(WINDOW, STRIDE),
        "head": Head(scale=1.0, bias=0.0, background=0.5),
        "templates": ("a {}",),
        "text": TextInfo(2 * WIDTH, 16),
        "graphs": graphs,
        "parity": {},
        "licences": (),
        "made_by": {},
        "dinov3seg": Dinov3seg(
            view=VIEW,
            whole="view",
            unit_length=True,
            halves=((0, WIDTH), (WIDTH, 2 * WIDTH)),
            pad_length=8,
            absent_logit=-100.0,
        ),
    }
    return Manifest(**{**fields, **changes})


def stage(folder: Path) -> None:
    for name in INPUTS:
        write_graph(name, folder / f"{name}.onnx")
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    view = np.random.default_rng(1).integers(0, 256, (VIEW, VIEW, 3), dtype=np.uint8)
    text = table()[3:6]
    np.savez(
        folder / "golden.npz",
        image=view[:WINDOW, :WINDOW],
        features=np.zeros((WIDTH, WINDOW // PATCH, WINDOW // PATCH), np.float16),
        view=view,
        text=text,
        logits=slow_logits(view, text).astype(np.float16),
    )


def colour_bundle(folder: Path) -> Bundle:
    """Write it below a folder."""
    staging = folder / "staging"
    staging.mkdir(parents=True)
    stage(staging)
    return write_bundle(folder / "colours.ovs", dinov3seg_manifest(), staging)
