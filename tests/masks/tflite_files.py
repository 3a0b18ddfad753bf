"""Tiny TFLite networks, written with the format's own classes."""

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema


def labels_of_brightest_channel(size):
    """A segmenter: uint8 (1, S, S, 3) -> the brightest channel of each pixel, int32 (1, S, S)."""
    axis = schema.BufferT()
    axis.data = np.array([3], np.int32).tobytes()
    options = schema.ArgMaxOptionsT()
    options.outputType = schema.TensorType.INT32
    tensors = [
        tensor((1, size, size, 3), schema.TensorType.UINT8),
        tensor((1, size, size), schema.TensorType.INT32),
        tensor((1,), schema.TensorType.INT32, buffer=1),
    ]
    kind = schema.BuiltinOperator.ARG_MAX
    return network(tensors, [0, 2], kind, schema.BuiltinOptions.ArgMaxOptions, options, [axis])


def negative(size):
    """A segmenter with logits: float (1, S, S, 3) -> its negative, so that the darkest channel wins."""
    shape, kind = (1, size, size, 3), schema.TensorType.FLOAT32
    tensors, options = [tensor(shape, kind), tensor(shape, kind)], schema.NegOptionsT()
    return network(tensors, [0], schema.BuiltinOperator.NEG, schema.BuiltinOptions.NegOptions, options, [])


def tensor(shape, kind, buffer=0):
    made = schema.TensorT()
    made.shape, made.type, made.buffer, made.name = list(shape), kind, buffer, f"tensor {shape}"
    return made


def network(tensors, inputs, kind, options_kind, options, buffers):
    """One operator from tensor 0 to tensor 1."""
    operator, code, graph, model = (
        schema.OperatorT(),
        schema.OperatorCodeT(),
        schema.SubGraphT(),
        schema.ModelT(),
    )
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, inputs, [1]
    operator.builtinOptionsType, operator.builtinOptions = options_kind, options
    code.builtinCode = code.deprecatedBuiltinCode = kind
    code.version = 1
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), *buffers]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())
