"""The back end on cuda-python: NVIDIA's own bindings, on a driver's library that a C compiler makes here.

Each case runs in a child process, which finds that library in place of the driver's.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
pytest.importorskip("cuda.bindings", reason="cuda-python is not installed")

SETUP = """
import ctypes, gc, os, threading
import numpy as np
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.kernels import GridAxis, Kernel, KernelArgument
from ovsdino_runtime.cuda.driver import open_cuda
library = ctypes.CDLL("libcuda.so.1")
kernel = Kernel(
    "CosineScores", "k.ptx", "scale", "sm_80", "sm_80", "8.0", "float32", {},
    (KernelArgument("x", "input", "int32"), KernelArgument("count", "integer", "int32"),
     KernelArgument("scale", "integer", "int32"), KernelArgument("out", "output", "int32")),
    (GridAxis("count", 4), GridAxis(1, 1), GridAxis(1, 1)), 2, 50000)
device = open_cuda(0)

def fails(call, text):
    try:
        call()
    except EngineError as error:
        assert text in str(error), error
    else:
        raise AssertionError(f"no error with {text!r}")
"""


@pytest.fixture(scope="session")
def driver(tmp_path_factory):
    """A folder with a driver's library."""
    gcc = shutil.which("gcc")
    if gcc is None or sys.platform != "linux":
        pytest.skip("needs gcc on Linux")
    folder = tmp_path_factory.mktemp("driver")
    command = [gcc, "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-o", folder / "libcuda.so.1"]
    subprocess.run([*command, HERE / "host_cuda.c", "-ldl"], check=True)
    return folder


def run(driver, code, **variables):
    root = HERE.parents[1]
    paths = os.pathsep.join(str(root / name) for name in (".", "runtime"))
    environment = os.environ | {"LD_LIBRARY_PATH": str(driver), "PYTHONPATH": paths}
    environment |= {"OVSDINO_CUDA": "cuda-python"} | variables
    done = subprocess.run(
        [sys.executable, "-c", SETUP + code], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_memory_streams_kernels_and_graphs(driver):
    """Every call of the back end; at the end nothing is left, and no context is current."""
    run(
        driver,
        """
assert (device.name, device.capability, device.index, device.captures) == ("First", "sm_89", 0, True)
with device.current():
    launch = device.load(kernel, b"PTX")
    stream, other, first, last = *map(device.make_stream, "ab"), device.make_event(), device.make_event()
    assert stream.handle and stream.handle != other.handle
    blocks = x, out = device.allocate(400), device.allocate(400)
    pinned = device.pin(400)
    array = pinned.array.view(np.int32)
    array[:] = np.arange(100)
    stream.record(first)
    stream.copy_in(x.address, array)
    launch(stream, {"x": x.address, "out": out.address, "count": 100, "scale": 3})
    stream.record(last)
    other.wait(last)
    other.copy_out(array, out.address)
    other.synchronize(), last.synchronize()
    assert last.milliseconds_since(first) == 1.5
    assert (array == 3 * np.arange(100)).all()

    def submit():
        stream.copy_in(x.address, array)
        launch(stream, {"x": x.address, "out": out.address, "count": 100, "scale": 5})
        stream.copy_out(array, out.address)

    graph = device.capture(stream, submit)
    assert (array == 3 * np.arange(100)).all()  # nothing of it has run
    graph.launch(stream)
    graph.launch(stream)
    assert (array == 75 * np.arange(100)).all()
    del array
    for held in (graph, *blocks, pinned):
        held.free()
device.close()
device.close()
assert library.live_objects() == 0, library.live_objects()
assert library.context_depth() == 0
fails(device.current().__enter__, "First: the device is closed")
""",
    )


def test_errors_are_named_and_leave_no_context(driver):
    run(
        driver,
        """
def allocate():
    with device.current():
        device.allocate(2 << 30)

fails(allocate, "CUDA's cuMemAlloc failed: CUDA_ERROR_OUT_OF_MEMORY: out of memory; `ovsdino doctor`")
assert library.context_depth() == 0
fails(lambda: open_cuda(2), "device 'cuda:2': CUDA sees 2 GPUs, numbered from 0")
assert open_cuda(1).name == "Second"
with device.current():
    fails(lambda: device.load(kernel, b"damaged"), "cuModuleLoadData failed")
""",
    )


def test_a_capture_is_ended_whatever_happens(driver):
    run(
        driver,
        """
with device.current():
    stream = device.make_stream("a")
    live = library.live_objects()

    def submit():
        raise EngineError("the engine did not run")

    fails(lambda: device.capture(stream, submit), "the engine did not run")
    stream.synchronize()  # fails while a capture is going on
    fails(lambda: device.capture(stream, stream.synchronize), "cuStreamSynchronize failed")
    ctypes.c_int.in_dll(library, "fail_instantiate").value = 900
    fails(lambda: device.capture(stream, lambda: None), "cuGraphInstantiate failed: CUDA_ERROR")
    assert library.live_objects() == live
""",
    )


def test_another_thread_frees_and_a_forked_process_is_refused(driver):
    run(
        driver,
        """
with device.current():
    block = device.allocate(8)
live = library.live_objects()

def free():
    with device.current():
        block.free()

thread = threading.Thread(target=free)
thread.start(), thread.join()
assert library.live_objects() == live - 1
if (child := os.fork()) == 0:
    try:
        fails(device.current().__enter__, "forked after CUDA was opened")
    except BaseException:
        os._exit(1)
    os._exit(0)
assert os.waitpid(child, 0)[1] == 0
""",
    )
