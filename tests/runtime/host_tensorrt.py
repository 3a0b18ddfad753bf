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


class RuntimeCache:
    """Holds the kernels that TensorRT for RTX compiled."""

    def __init__(self, module):
        self.module, self.read = module, None

    def deserialize(self, data):
        self.read = data

    def serialize(self):
        return self.module.compiled


class RuntimeConfig:
    cuda_graph_strategy = None

    def __init__(self, module):
        self.module, self.cache = module, None

    def create_runtime_cache(self):
        self.module.caches.append(RuntimeCache(self.module))
        return self.module.caches[-1]

    def set_runtime_cache(self, cache):
        self.cache = cache


class RtxEngine(Engine):
    """An engine whose contexts are made with a configuration."""

    def __init__(self, module, device):
        super().__init__(device)
        self.module = module

    def create_runtime_config(self):
        self.module.configs.append(RuntimeConfig(self.module))
        return self.module.configs[-1]

    def create_execution_context(self, config):
        assert config is self.module.configs[-1]
        return super().create_execution_context()


class TensorrtRtx(Tensorrt):
    """TensorRT for RTX's module; ``compiled`` is what its runtime cache holds."""

    __version__ = "1.7.1.116"
    CudaGraphStrategy = SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole graph")

    def __init__(self, device):
        super().__init__(device)
        self.caches, self.configs, self.compiled = [], [], b""
        self.engine = RtxEngine(self, device)
