"""The cache of graphs that ONNX Runtime has optimised."""

import logging
import os

import numpy as np
import pytest

from ovsdino_runtime.engines import onnxruntime as engines
from ovsdino_runtime.engines import optimized_graphs
from ovsdino_runtime.engines.file_checks import RECORD, write_record
from ovsdino_runtime.engines.onnxruntime import OnnxRuntimeEngine, open_engine
from ovsdino_runtime.engines.optimized_graphs import GRAPH, WEIGHTS


def folders(cache):
    kept = cache / "onnxruntime"
    return sorted(kept.iterdir()) if kept.is_dir() else []


def features(engine):
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)
    return engine.run({"pixels": pixels})["features"]


@pytest.fixture
def kept(shared_bundle, cache):
    """The folder of the bundle's kept vision graph."""
    open_engine(shared_bundle, "vision", threads=1)
    (folder,) = folders(cache)
    return folder


def test_a_kept_graph_computes_what_the_models_own_does(shared_bundle, kept):
    engine = open_engine(shared_bundle, "vision", threads=1)
    assert engine.is_kept
    plain = OnnxRuntimeEngine(shared_bundle.file("vision.onnx"), threads=1)
    assert not plain.is_kept
    np.testing.assert_array_equal(features(engine), features(plain))
    assert (kept / RECORD).is_file()
    assert (kept.parent.stat().st_mode & 0o777, kept.stat().st_mode & 0o777) == (0o700, 0o700)


def test_the_second_start_does_not_optimise(shared_bundle, kept, monkeypatch):
    before = (kept / GRAPH).stat()
    monkeypatch.setattr(engines, "_optimize", lambda *_: pytest.fail("the graph is optimised again"))
    assert open_engine(shared_bundle, "vision", threads=2).is_kept  # the same graph for any number of threads
    assert (kept / GRAPH).stat() == before


@pytest.mark.parametrize("name", [GRAPH, RECORD])
@pytest.mark.parametrize("damage", ["cut", "changed", "missing"])
def test_a_damaged_graph_is_optimised_again(shared_bundle, kept, name, damage, caplog):
    whole = (kept / name).read_bytes()
    middle = len(whole) // 2
    if damage == "missing":
        (kept / name).unlink()
    else:
        rest = b"" if damage == "cut" else bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
        (kept / name).write_bytes(whole[:middle] + rest)
    engine = open_engine(shared_bundle, "vision", threads=1)
    assert engine.is_kept
    assert (kept / name).read_bytes() == whole
    plain = OnnxRuntimeEngine(shared_bundle.file("vision.onnx"), threads=1)
    np.testing.assert_array_equal(features(engine), features(plain))


def test_a_graph_that_onnx_runtime_rejects_does_not_stop_the_model(shared_bundle, kept, caplog):
    (kept / GRAPH).write_bytes(b"no graph")
    write_record(kept, (GRAPH, WEIGHTS))
    with caplog.at_level(logging.WARNING):
        engine = open_engine(shared_bundle, "vision", threads=1)
    assert not engine.is_kept
    assert "graph.onnx: not used:" in caplog.text


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_a_graph_that_others_can_write_is_not_used(shared_bundle, kept, cache, caplog):
    for folder in (cache, kept.parent, kept):
        folder.chmod(0o777)
    with caplog.at_level(logging.WARNING):
        assert optimized_graphs.find_optimized(kept) is None
    assert "not used, for it may not be the model:" in caplog.text
    assert "chmod go-w" in caplog.text


def test_large_graphs_are_not_kept(shared_bundle, cache, monkeypatch):
    monkeypatch.setattr(engines, "MAX_KEPT_BYTES", 10)
    assert not open_engine(shared_bundle, "vision", threads=1).is_kept
    assert folders(cache) == []


def test_an_engine_without_a_digest_keeps_nothing(shared_bundle, cache):
    OnnxRuntimeEngine(shared_bundle.file("vision.onnx"), threads=1)
    assert folders(cache) == []


def test_a_full_disk_does_not_stop_the_model(shared_bundle, cache, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optimized_graphs, "exchange", fail)
    assert not open_engine(shared_bundle, "vision", threads=1).is_kept
    assert [path.name for path in folders(cache)] == []


def test_only_the_newest_graphs_are_kept(shared_bundle, cache, monkeypatch):
    monkeypatch.setattr(optimized_graphs, "MAX_KEPT", 2)
    file = shared_bundle.file("vision.onnx")
    for number in range(4):
        assert OnnxRuntimeEngine(file, threads=1, digest=f"model {number}").is_kept
        for order, folder in enumerate(folders(cache)):
            os.utime(folder / RECORD, (number * 10 + order, number * 10 + order))
    assert len(folders(cache)) == 2
    assert OnnxRuntimeEngine(file, threads=1, digest="model 3").is_kept
    assert len(folders(cache)) == 2


def test_a_large_tensor_lies_beside_the_graph(shared_bundle, cache, monkeypatch):
    monkeypatch.setattr(engines, "MIN_WEIGHTS", 1)
    assert open_engine(shared_bundle, "vision", threads=1).is_kept
    (folder,) = folders(cache)
    assert (folder / WEIGHTS).stat().st_size > 0
    (folder / WEIGHTS).write_bytes(b"")
    assert optimized_graphs.find_optimized(folder) is None
