"""Every name of TensorRT's Python interface that we use, in NVIDIA's own bindings of several generations.

The bindings' wheels need the library; here a C compiler makes one that defines what they link to and nothing
else. They are looked for in the folder that ``OVSDINO_TENSORRT_WHEELS`` names and never fetched:

    pip download --no-deps --dest wheels tensorrt-cu12-bindings==10.16.1.11
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

WHEELS = Path(os.environ.get("OVSDINO_TENSORRT_WHEELS", "wheels"))
LIBRARIES = ("libnvinfer.so", "libnvonnxparser.so", "libnvinfer_plugin.so")
FOUND = sorted(WHEELS.glob("tensorrt_cu1*_bindings-*.whl"))

CODE = """
import sys
sys.path[:0] = [{folder!r}, *{roots!r}]
import tensorrt_bindings.tensorrt as trt

version = tuple(int(part) for part in {version!r}.split(".")[:2])
for name in (
    "Builder.create_network", "Builder.create_builder_config", "Builder.create_optimization_profile",
    "Builder.build_serialized_network", "IBuilderConfig.clear_flag", "IBuilderConfig.set_memory_pool_limit",
    "IBuilderConfig.profiling_verbosity", "IBuilderConfig.add_optimization_profile",
    "IBuilderConfig.progress_monitor", "IBuilderConfig.create_timing_cache",
    "IBuilderConfig.set_timing_cache",
    "IBuilderConfig.get_timing_cache", "BuilderFlag.TF32", "MemoryPoolType.WORKSPACE",
    "ProfilingVerbosity.DETAILED", "ProfilingVerbosity.NONE", "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
    "OnnxParser.parse_from_file", "OnnxParser.num_errors", "OnnxParser.get_error", "IProgressMonitor",
    "INetworkDefinition.num_layers", "INetworkDefinition.get_layer", "ILayer.num_inputs", "ILayer.get_input",
    "ILayer.type", "ITensor.dtype", "ITensor.shape", "LayerType.MATRIX_MULTIPLY", "LayerType.CONVOLUTION",
    "LayerType.NORMALIZATION", "LayerType.SOFTMAX", "LayerType.PLUGIN_V3", "DataType.BF16", "DataType.HALF",
    "IOptimizationProfile.set_shape", "Runtime.deserialize_cuda_engine", "ICudaEngine.num_io_tensors",
    "ICudaEngine.get_tensor_name", "ICudaEngine.get_tensor_dtype", "ICudaEngine.get_tensor_shape",
    "ICudaEngine.get_tensor_mode", "ICudaEngine.create_execution_context",
    "ICudaEngine.create_engine_inspector", "EngineInspector.get_engine_information",
    "LayerInformationFormat.JSON", "TensorIOMode.INPUT", "IExecutionContext.set_input_shape",
    "IExecutionContext.set_tensor_address", "IExecutionContext.get_tensor_shape",
    "IExecutionContext.execute_async_v3", "IExecutionContext.nvtx_verbosity", "ILogger.ERROR",
    "ILogger.INTERNAL_ERROR",
):
    part = trt
    for step in name.split("."):
        part = getattr(part, step)  # AttributeError names what is missing

ahead = hasattr(trt.NetworkDefinitionCreationFlag, "PREFER_AOT_PYTHON_PLUGINS")
assert ahead == (version >= (10, 9)), "where plugins ahead of time begin"

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.engines.tensorrt_library import ErrorRecorder, make

errors = ErrorRecorder(trt)
errors.logger.log(trt.ILogger.ERROR, "said")
errors.logger.log(trt.ILogger.WARNING, "not said")
assert errors.reasons() == "said"
for what, factory in (("builder", trt.Builder), ("runtime", trt.Runtime)):
    try:
        make(what, lambda: factory(errors.logger), flavour="tensorrt", version={version!r}, errors=errors)
    except EngineError as error:
        assert f"makes no {{what}}: no NVIDIA GPU or driver answers" in str(error), error
    else:
        raise AssertionError("a null pointer is no error")
"""


def undefined(binding):
    """List what the bindings expect of TensorRT's libraries."""
    done = subprocess.run(
        ["nm", "-D", "--undefined-only", binding], capture_output=True, text=True, check=True
    )
    names = {line.split()[-1].partition("@")[0] for line in done.stdout.splitlines()}
    factories = ("create", "getInfer", "getPlugin", "initLib", "getNv", "getLogger", "getBuilder")
    return sorted(name for name in names if "nvinfer" in name or name.startswith(factories))


@pytest.mark.skipif(not FOUND, reason=f"no wheels of TensorRT's bindings in {WHEELS}")
@pytest.mark.skipif(shutil.which("gcc") is None or shutil.which("nm") is None, reason="needs gcc and nm")
@pytest.mark.parametrize("wheel", FOUND, ids=[path.name.split("-")[1] for path in FOUND])
def test_what_we_use_is_in_every_generation(wheel, tmp_path):
    tag = f"-cp{sys.version_info[0]}{sys.version_info[1]}-"
    if tag not in wheel.name:
        pytest.skip(f"the wheel is for another Python than {tag.strip('-')}")
    zipfile.ZipFile(wheel).extractall(tmp_path / "site")
    (package,) = (tmp_path / "site").glob("tensorrt*_bindings")
    package.rename(package.with_name("tensorrt_bindings"))
    (binding,) = (tmp_path / "site").rglob("tensorrt.so")
    major = wheel.name.split("-")[1].partition(".")[0]
    source = tmp_path / "stubs.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in undefined(binding)))
    for library in LIBRARIES:
        target = tmp_path / f"{library}.{major}"
        command = ["gcc", "-shared", "-fPIC", "-w", f"-Wl,-soname,{target.name}", "-o", target, source]
        subprocess.run(command, check=True)
    code = CODE.format(
        folder=str(tmp_path / "site"),
        roots=[str(Path(__file__).parents[2] / name) for name in (".", "runtime", "export")],
        version=wheel.name.split("-")[1],
    )
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
