"""A stand-in for TensorRT's module on the host back end: ``features = 2 * pixels + 1``."""

import time
from types import SimpleNamespace

import numpy as np

SIDE = 4  # of a window
BATCH = 4  # at most


class Context:
    def __init__(self, device):
        self.device, self.shape, self.addresses = device, None, {}
        self.nvtx_verbosity = "DETAILED"

    def set_input_shape(self, name, shape):
        if name != "pixels" or not 1 <= shape[0] <= BATCH:
            return False
        self.shape = tuple(shape)
        return True

    def set_tensor_address(self, name, address):
        if name not in ("pixels", "features"):
            return False
        self.addresses[name] = address
        return True

    def get_tensor_shape(self, _name):
        return self.shape

    def execute_async_v3(self, handle):
        stream = next(stream for stream in self.device.streams if stream.handle == handle)

        def run():
            time.sleep(1e-4)  # other threads run meanwhile, as beside a GPU
            places = (self.addresses["pixels"], self.addresses["features"])
            given, out = (self.device.tensor(place, "float32", self.shape) for place in places)
            np.multiply(given, 2, out=out)
            out += 1

        stream.submit("do", run, "engine")
        return True


class Engine:
    num_io_tensors = 2

    def __init__(self, device):
        self.device, self.made = device, []

    def get_tensor_name(self, index):
        return ("pixels", "features")[index]

    def get_tensor_dtype(self, _name):
        return SimpleNamespace(name="FLOAT")

    def get_tensor_shape(self, _name):
        return (-1, 3, SIDE, SIDE)

    def get_tensor_mode(self, name):
        return "in" if name == "pixels" else "out"

    def create_execution_context(self):
        self.made.append(Context(self.device))
        return self.made[-1]


class Logger:
    ERROR, INTERNAL_ERROR, WARNING = "error", "internal error", "warning"


class Tensorrt:
    """The module; ``deserialize`` may be replaced by a test.

    Args:
        device: the host back end on which engines run.
    """

    __version__ = "10.9.0.34"
    ILogger = Logger
    TensorIOMode = SimpleNamespace(INPUT="in")
    ProfilingVerbosity = SimpleNamespace(NONE="none")

    def __init__(self, device):
        self.engine = Engine(device)
        self.logger = None

    def Runtime(self, logger):  # noqa: N802 - as TensorRT
        self.logger = logger
        return SimpleNamespace(deserialize_cuda_engine=self.deserialize)

    def deserialize(self, _data):
        return self.engine
