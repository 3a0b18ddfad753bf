"""Check NVIDIA's bindings of one version of TensorRT; see `test_tensorrt_bindings.py`, which runs this.

NVIDIA's Python code checks plugins when they are registered, described and launched. Here it does so with a
registry and with expressions of sizes that stand in for the library's.
"""

import sys
from functools import partial
from typing import ClassVar

import pytest
import tensorrt as trt

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.engines.tensorrt_library import ErrorRecorder, make

NAMES = {
    "Builder": "create_network create_builder_config create_optimization_profile build_serialized_network",
    "IBuilderConfig": (
        "clear_flag set_memory_pool_limit profiling_verbosity add_optimization_profile "
        "progress_monitor create_timing_cache set_timing_cache get_timing_cache"
    ),
    "BuilderFlag": "TF32",
    "MemoryPoolType": "WORKSPACE",
    "ProfilingVerbosity": "DETAILED NONE",
    "NetworkDefinitionCreationFlag": "STRONGLY_TYPED",
    "OnnxParser": "parse_from_file num_errors get_error",
    "IProgressMonitor": "",
    "INetworkDefinition": "num_layers get_layer",
    "ILayer": "num_inputs get_input type",
    "ITensor": "dtype shape",
    "LayerType": "MATRIX_MULTIPLY CONVOLUTION NORMALIZATION SOFTMAX PLUGIN_V3",
    "DataType": "BF16 HALF",
    "IOptimizationProfile": "set_shape",
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": (
        "num_io_tensors get_tensor_name get_tensor_dtype get_tensor_shape get_tensor_mode "
        "create_execution_context create_engine_inspector"
    ),
    "EngineInspector": "get_engine_information",
    "LayerInformationFormat": "JSON",
    "TensorIOMode": "INPUT",
    "IExecutionContext": (
        "set_input_shape set_tensor_address get_tensor_shape execute_async_v3 nvtx_verbosity"
    ),
    "ILogger": "ERROR INTERNAL_ERROR",
}  # by class


def check_names(version):
    """Find each name that we use, and where plugins ahead of time begin."""
    missing = {
        f"{owner}.{name}"
        for owner, names in NAMES.items()
        for name in names.split()
        if not hasattr(getattr(trt, owner), name)
    }
    assert not missing
    ahead = hasattr(trt.NetworkDefinitionCreationFlag, "PREFER_AOT_PYTHON_PLUGINS")
    assert ahead == (version >= (10, 9))


def check_errors(version):
    """The recorder keeps errors alone; a null pointer from a factory is our error."""
    errors = ErrorRecorder(trt)
    errors.logger.log(trt.ILogger.ERROR, "said")
    errors.logger.log(trt.ILogger.WARNING, "not said")
    assert errors.reasons() == "said"
    for what, factory in (("builder", trt.Builder), ("runtime", trt.Runtime)):
        create = partial(factory, errors.logger)
        with pytest.raises(EngineError, match=f"makes no {what}: no NVIDIA GPU or driver answers"):
            make(what, create, flavour="tensorrt", version=version, errors=errors)


class Registry:
    """TensorRT's registry of plugins, as far as NVIDIA's Python code uses it."""

    creators: ClassVar[dict] = {}

    def register_creator(self, creator, namespace):
        self.creators[namespace, creator.name] = creator

    def get_creator(self, name, _version, namespace):
        return self.creators[namespace, name]


class Size(trt.IDimensionExpr):
    """A side, None where it varies. The library makes such objects; `size` goes around the constructor."""

    def is_constant(self):
        return self.value is not None

    def get_constant_value(self):
        return self.value


def size(value):
    made = Size.__new__(Size)
    made.value = value
    return made


class Sizes:
    """Makes sizes, and knows the operations that our plugins use."""

    def constant(self, value):
        return size(value)

    def operation(self, kind, first, second):
        if None in (first.value, second.value):
            return size(None)
        if kind == trt.DimensionOperation.SUM:  # NVIDIA's copy of a size
            return size(first.value + second.value)
        assert kind == trt.DimensionOperation.CEIL_DIV
        return size(-(-first.value // second.value))


def check_plugins():
    """Register, describe and launch the packaged kernels through NVIDIA's code."""
    import tensorrt.plugin as trtp
    from tensorrt.plugin._tensor import SymIntExpr

    from ovsdino_export.engines.plugin import NAMESPACE, register_plugins
    from ovsdino_export.engines.ptx import describe_ptx
    from ovsdino_runtime.bundle.bundle import load_bundle
    from ovsdino_runtime.bundle.kernels import FUSED
    from ovsdino_runtime.bundle.models import find_bundle

    trt.get_plugin_registry = Registry
    bundle = load_bundle(find_bundle("nano"))
    register_plugins(bundle, "sm_89")
    assert set(Registry.creators) == {(NAMESPACE, operator) for operator in FUSED}
    for kernel in bundle.manifest.kernels:
        if kernel.operator not in FUSED or kernel.target != "sm_80":
            continue
        dtype = {"float16": trt.DataType.HALF, "float32": trt.DataType.FLOAT}[kernel.dtype]
        creator = Registry.creators[NAMESPACE, kernel.operator]
        ahead = trt.QuickPluginCreationRequest.STRICT_AOT
        plugin = creator.create_plugin(kernel.operator, NAMESPACE, [], trt.TensorRTPhase.BUILD, ahead)
        assert plugin.get_output_data_types([dtype] * 4, [4] * 4) == [dtype]  # sizes are not known here
        SymIntExpr._exprBuilder = Sizes()
        height = kernel.constants.get("height", 1)
        width = kernel.constants.get("width") or kernel.constants["area"]
        sides = [None, kernel.constants["channels"], height, width]
        x = describe_tensor(trtp, sides, dtype)
        (out,) = plugin.register_function(x, x, x, x)
        stride = kernel.constants.get("stride", 1)
        expected = [None, sides[1], height // stride, width // stride]
        assert [value_of(side) for side in out.shape_expr] == expected
        entry, ptx, launch, extra = plugin.aot_impl_function(x, x, x, x, (out,), 0)
        assert isinstance(launch, trtp.KernelLaunchParams)
        assert isinstance(extra, trtp.SymExprs)
        found = describe_ptx(ptx)
        assert (found.entry, found.target, len(found.parameters)) == (entry, "sm_80", 5 + len(extra))
        grid = [value_of(side) for side in (launch.grid_x, launch.grid_y, launch.grid_z)]
        assert grid == [-(-int(kernel.grid[0].size) // kernel.grid[0].step), None, 1]
        assert value_of(launch.block_x) == 32 * kernel.num_warps
        assert value_of(launch.shared_mem) == kernel.shared_memory
        other = describe_tensor(trtp, [None, 7, height, width], dtype)
        with pytest.raises(EngineError, match="the network has 7"):
            plugin.aot_impl_function(other, x, x, x, (out,), 0)
        SymIntExpr._exprBuilder = None


def describe_tensor(trtp, sides, dtype):
    """Make NVIDIA's description of a tensor whose sides are numbers, or None where they vary."""
    exprs = trtp.ShapeExprs.from_tuple(tuple(trtp.ShapeExpr(size(side)) for side in sides))
    return trtp.from_shape_expr(exprs, dtype)


def value_of(expr):
    """Return a side's number, None where it varies."""
    return expr._expr.value


if __name__ == "__main__":
    numbers = tuple(int(part) for part in sys.argv[1].split(".")[:2])
    check_names(numbers)
    check_errors(sys.argv[1])
    if numbers >= (10, 10):
        check_plugins()
