"""An engine that is missing is built by a child process, whose reason is in the message where it fails."""

import sys

import pytest

from ovsdino_runtime.base.errors import EngineError
from ovsdino_runtime.cuda.devices import Gpu
from ovsdino_runtime.engines import first_use
from ovsdino_runtime.engines import tensorrt as engine_run


@pytest.fixture
def gpu(monkeypatch):
    """A GPU that this process believes in; the child process asks the driver itself."""
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(engine_run, "find_gpus", lambda: (Gpu("RTX 4090", "sm_89", "580.1"),) * 2)


def test_the_builders_reason_is_in_the_message(shared_bundle, gpu, monkeypatch, capfd):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    wanted = r"tiny: the engine of vision was not built: --gpu .*; the command was: ovsdino-export --bundle"
    with pytest.raises(EngineError, match=wanted):
        first_use.find_or_build_engine(shared_bundle, "vision", flavour="tensorrt-rtx")
    assert "no engine of vision for this GPU yet: building it" in capfd.readouterr().err


def test_without_the_builder_the_command_is_named(shared_bundle, gpu, monkeypatch):
    monkeypatch.setattr(first_use, "find_spec", lambda _: None)
    monkeypatch.setattr(first_use.subprocess, "run", pytest.fail)
    with pytest.raises(EngineError, match="none was built yet; build it: ovsdino-export --bundle"):
        first_use.find_or_build_engine(shared_bundle, "vision", flavour="tensorrt-rtx")


def test_a_gpu_that_is_not_there_is_refused_before_anything_is_built(shared_bundle, gpu, monkeypatch):
    monkeypatch.setattr(first_use.subprocess, "run", pytest.fail)
    with pytest.raises(EngineError, match="tensorrt-rtx: there is no GPU 2, CUDA sees 2, numbered from 0"):
        first_use.find_or_build_engine(shared_bundle, "vision", flavour="tensorrt-rtx", index=2)


def test_one_graph_for_one_gpu_is_built(shared_bundle):
    command = first_use.build_command(shared_bundle, "vision.fp16", flavour="tensorrt", index=1)
    assert command[0] == sys.executable
    assert command[-4:] == ["--graph", "vision.fp16", "--gpu", "cuda:1"]
