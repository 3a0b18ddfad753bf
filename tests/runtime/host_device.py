"""A host back end of the device's interface: what a GPU would do, done by the processor, for tests alone.

Memory is the host's and full of NaN at first. Work waits in its stream until someone synchronises, and is
then done in an order drawn by chance among those that streams and events allow: a missing event gives wrong
labels.
Kernels are the Triton kernels' plain references, or in Triton's interpreter the kernels themselves.
"""

import ctypes
import random
import time
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ovsdino_export.engines.kernels import ENTRIES, plan_device_kernels
from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.bundle.kernels import Kernel

GPU = "host"
DTYPES = {
    "float32": np.float32,
    "float16": np.float16,
    "int32": np.int32,
    "uint16": np.uint16,
    "uint8": np.uint8,
}


def host_kernels(folder: Path) -> tuple[Kernel, ...]:
    """Describe the kernels as the exporter does; what would be PTX is never read."""
    (folder / "kernels").mkdir(exist_ok=True)
    kernels = []
    for plan in plan_device_kernels():
        file = f"kernels/{plan.name}.{GPU}.ptx"
        (folder / file).write_text("for the host back end of the tests\n")
        entry = ENTRIES[plan.operator]
        fields = (plan.dtype, plan.constants, plan.arguments, plan.grid)
        kernels.append(
            Kernel(plan.operator, file, entry, GPU, GPU, "0", *fields, num_warps=1, shared_memory=0)
        )
    return tuple(kernels)


class HostBlock:
    def __init__(self, device, size):
        raw = np.full(size + 256, 0xFF, np.uint8)  # NaN, and absurd integers
        self.device, self.size = device, size
        self.array = raw[-raw.ctypes.data % 256 :][:size]
        self.address = self.array.ctypes.data
        device.blocks.append(self)

    def free(self):
        self.device.blocks.remove(self)
        self.array = None


class HostEvent:
    """Counts how often it was recorded; a wait is for the count at the time it was submitted."""

    recorded = 0
    owner = None  # the capture in which it was last recorded

    def __init__(self, device):
        self.device = device

    def synchronize(self):
        count = self.recorded
        self.device.work_until(lambda: self.device.passed[self] >= count)

    def milliseconds_since(self, earlier):
        return 1000 * (self.device.times[self] - self.device.times[earlier])


class HostStream:
    def __init__(self, device, name):
        self.device, self.name, self.queue = device, name, []
        self.handle = id(self)

    def submit(self, kind, what, name=""):
        self.device.submit(self, kind, what, name)

    def record(self, event):
        event.recorded += 1
        event.owner = self.device.capturing
        self.submit("record", (event, event.recorded))

    def wait(self, event):
        if self.device.capturing is not event.owner:
            raise EngineError("a captured stream waits for an event from outside, or the other way round")
        self.submit("wait", (event, event.recorded))

    def copy_in(self, target, source):
        assert any(
            self.device.holds(block, source.ctypes.data, source.nbytes) for block in self.device.blocks
        )
        to = self.device.view(target, source.nbytes)
        self.submit("do", lambda: np.copyto(to, source.reshape(-1).view(np.uint8)), "copy in")

    def copy_out(self, target, source):
        view = self.device.view(source, target.nbytes)
        self.submit("do", lambda: np.copyto(target.reshape(-1).view(np.uint8), view), "copy out")

    def synchronize(self):
        assert self.device.capturing is None, "a capture may not wait"
        self.device.work_until(lambda: not self.queue)


class HostGraph:
    """What was submitted during a capture; every launch does it again, in another order."""

    def __init__(self, device, origin):
        self.device, self.origin, self.streams = device, origin, {origin}
        self.queues = defaultdict(list)

    def add(self, stream, kind, what):
        if kind == "wait":
            self.streams.add(stream)  # an event of this capture brings the stream into it
        if stream not in self.streams:
            raise EngineError(f"{stream.name}: not part of the capture")
        self.queues[stream].append((kind, what))

    def check(self):
        """Every stream has come back to the first."""
        known = {self.origin}
        for _ in self.queues:  # an event that a known stream waits for makes the stream of its record known
            waited = {what[0] for s in known for kind, what in self.queues[s] if kind == "wait"}
            ends = {s: queue[-1] for s, queue in self.queues.items()}
            known |= {s for s, (kind, what) in ends.items() if kind == "record" and what[0] in waited}
        if missing := [stream.name for stream in self.queues if stream not in known]:
            raise EngineError(f"{missing}: not joined at the end of the capture")

    def launch(self, stream):
        def work():
            queues, passed = {s: list(queue) for s, queue in self.queues.items()}, defaultdict(int)
            while any(queues.values()):
                assert self.device.step(queues, passed), "the graph waits for itself"

        stream.submit("do", work, "graph")
        self.device.launches += 1

    def free(self):
        self.queues.clear()


class HostDevice:
    """See the module.

    Args:
        run: computes a kernel: its description and its arguments by name.
        seed: of the order of work.
    """

    name, capability, index, captures = "host back end", GPU, 0, True
    closed = False

    def __init__(self, run, seed=0):
        self.run, self.random = run, random.Random(seed)
        self.blocks, self.streams, self.log = [], [], []
        self.passed, self.times = defaultdict(int), {}
        self.capturing, self.launches = None, 0

    @contextmanager
    def current(self):
        yield

    def allocate(self, size):
        assert self.capturing is None, "a capture may not allocate"
        return HostBlock(self, size)

    pin = allocate

    def make_stream(self, name):
        self.streams.append(HostStream(self, name))
        return self.streams[-1]

    def make_event(self):
        return HostEvent(self)

    def load(self, kernel, ptx):
        assert ptx
        names = [argument.name for argument in kernel.arguments]
        axes = [axis.size for axis in kernel.grid if isinstance(axis.size, str)]

        def launch(stream, values):
            chosen = {name: int(values[name]) for name in (*names, *axes)}
            stream.submit("do", lambda: self.run(self, kernel, chosen), kernel.operator)

        return launch

    def capture(self, stream, submit):
        self.capturing = graph = HostGraph(self, stream)
        try:
            submit()
        finally:
            self.capturing = None
        graph.check()
        return graph

    def close(self):
        assert not self.blocks, "memory outlives the device"
        self.closed = True

    def holds(self, block, address, size):
        return block.address <= address and address + size <= block.address + block.size

    def view(self, address, size):
        assert any(self.holds(block, address, size) for block in self.blocks), "outside of all memory"
        return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))

    def tensor(self, address, dtype, shape):
        count = int(np.prod(shape))
        return self.view(address, count * np.dtype(DTYPES[dtype]).itemsize).view(DTYPES[dtype]).reshape(shape)

    def submit(self, stream, kind, what, name=""):
        if self.capturing is not None:
            self.capturing.add(stream, kind, what)
            return
        self.log.append((stream.name, kind, name))
        stream.queue.append((kind, what))

    def work_until(self, done):
        queues = {stream: stream.queue for stream in self.streams}
        while not done():
            assert self.step(queues, self.passed), "streams wait for each other"

    def step(self, queues, passed):
        """Do one piece of work that may be done now; say whether there was one."""
        ready = [queue for queue in queues.values() if queue and self.ready(queue[0], passed)]
        if not ready:
            return False
        kind, what = self.random.choice(ready).pop(0)
        if kind == "do":
            what()
        elif kind == "record":
            event, count = what
            passed[event] = max(passed[event], count)
            self.times[event] = time.perf_counter()
        return True

    def ready(self, work, passed):
        kind, what = work
        return kind != "wait" or passed[what[0]] >= what[1]
