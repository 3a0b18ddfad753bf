"""The cache of engines: what is kept, what is found, what is refused."""

import hashlib
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from ovsdino_runtime.base.errors import EngineError, OutputError
from ovsdino_runtime.cuda.devices import Gpu
from ovsdino_runtime.engines import cache as engine_cache
from ovsdino_runtime.engines.cache import (
    BATCHES,
    EngineKey,
    EngineRecord,
    building,
    clear_engines,
    engines_dir,
    find_engine,
    list_engines,
    read_engine,
    store_engine,
)

GPU = Gpu("NVIDIA GeForce RTX 4090", "sm_89", "580.65.06")
DATA = b"an engine"


@pytest.fixture
def key(shared_bundle):
    return EngineKey(
        onnx=shared_bundle.graph_digest("vision"),
        flavour="tensorrt",
        version="10.9.0.34",
        capabilities=("sm_89",),
        gpu=GPU.name,
        driver=GPU.driver,
        precision="fp32",
        batches=BATCHES,
    )


@pytest.fixture
def record(key):
    digest = hashlib.sha256(DATA).hexdigest()
    return EngineRecord(
        record_version=1,
        key=key,
        model="tiny",
        graph="vision",
        sha256=digest,
        size=len(DATA),
        seconds=1.5,
        layers={"CONVOLUTION FLOAT": 1},
        golden_cosine=0.9999,
    )


def test_an_engine_is_kept_and_found(shared_bundle, key, record):
    assert list_engines() == ([], [])
    store_engine(record, DATA)
    assert list_engines() == ([record], [])
    found = find_engine(shared_bundle, "vision", wanted=key, gpu=GPU)
    assert found == record
    assert read_engine(found) == DATA
    assert sorted(path.suffix for path in engines_dir().iterdir()) == [".engine", ".json"]
    assert clear_engines() == 1
    assert not list(engines_dir().iterdir())


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("onnx", "0" * 64, "it was built from another ONNX graph"),
        ("version", "10.8.0.43", "it was built by tensorrt 10.8.0.43, here is tensorrt 10.9.0.34"),
        ("flavour", "tensorrt-rtx", "it was built by tensorrt-rtx 10.9.0.34, here is tensorrt 10.9.0.34"),
        ("capabilities", ("sm_80", "sm_86"), "it was built for sm_80, sm_86, the GPU here is sm_89"),
        ("gpu", "NVIDIA L4", "it was built on NVIDIA L4, the GPU here is NVIDIA GeForce RTX 4090"),
        ("precision", "fp16", "it computes in fp16, asked for is fp32"),
        ("batches", (1, 2, 2), r"its batches are \(1, 2, 2\), asked for are \(1, 4, 4\)"),
    ],
)
def test_an_engine_that_does_not_fit_is_never_found(shared_bundle, key, record, field, value, why):
    assert replace(key, **{field: value}).digest != key.digest
    store_engine(replace(record, key=replace(key, **{field: value})), DATA)
    cure = r"build it: ovsdino-export --bundle .*tiny\.ovs --engine tensorrt --gpu current"
    with pytest.raises(EngineError, match=rf"no engine of vision for NVIDIA .* \(sm_89\); .*{why}; {cure}"):
        find_engine(shared_bundle, "vision", wanted=key, gpu=GPU)


def test_an_engine_for_a_kind_of_gpu_fits_every_one_of_it(shared_bundle, key, record):
    ahead = replace(key, gpu="", driver="", capabilities=("sm_86", "sm_89"))
    store_engine(replace(record, key=ahead), DATA)
    assert (
        find_engine(
            shared_bundle, "vision", wanted=key, gpu=replace(GPU, name="NVIDIA L4", driver="590.1")
        ).key
        == ahead
    )


def test_another_driver_is_no_reason_to_refuse_but_the_same_one_comes_first(shared_bundle, key, record):
    old = replace(record, key=replace(key, driver="550.1"))
    store_engine(old, DATA)
    assert find_engine(shared_bundle, "vision", wanted=key, gpu=GPU) == old
    store_engine(record, DATA)
    assert find_engine(shared_bundle, "vision", wanted=key, gpu=GPU) == record


def test_without_any_engine_the_message_says_how_to_build_one(shared_bundle, key):
    with pytest.raises(EngineError, match="none was built yet; build it: ovsdino-export --bundle"):
        find_engine(shared_bundle, "vision", wanted=key, gpu=GPU)


def test_an_engine_that_was_changed_is_not_read(record):
    store_engine(record, DATA)
    record.file.write_bytes(b"another")
    with pytest.raises(EngineError, match=r"\.engine: changed or damaged: sha256 \w{12}, its record says"):
        read_engine(record)


@pytest.mark.parametrize("text", ["{}", "no json", None])
def test_a_broken_record_does_not_hide_the_others(record, key, text):
    other = store_engine(replace(record, key=replace(key, version="11.0")), DATA)
    store_engine(record, DATA)
    if text is None:
        record.file.unlink()
    else:
        record.file.with_suffix(".json").write_text(text)
    assert list_engines() == ([other], [record.file.with_suffix(".json")])
    clear_engines()
    assert list_engines() == ([], [])


def test_a_record_under_another_name_is_refused(record):
    store_engine(record, DATA)
    record.file.rename(engines_dir() / "other.engine")
    record.file.with_suffix(".json").rename(engines_dir() / "other.json")
    assert list_engines()[0] == []


def test_a_cache_that_cannot_be_written_is_named(record, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "file"))
    with pytest.raises(OutputError, match="set OVSDINO_CACHE to a folder on another disk"):
        store_engine(record, DATA)
    with (
        pytest.raises(OutputError, match="set OVSDINO_CACHE to a folder that can be written"),
        building(record.key),
    ):
        pass


def test_a_write_that_fails_halfway_leaves_the_old_file(record, monkeypatch):
    store_engine(record, DATA)

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(engine_cache.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        store_engine(record, b"half of it")
    assert read_engine(record) == DATA
    assert len(list(engines_dir().iterdir())) == 2


def test_a_second_builder_waits_for_the_first(key, tmp_path):
    """Another process holds the lock; it frees it by its death alone."""
    ready = tmp_path / "ready"
    code = (
        f"import sys, time; sys.path.insert(0, {str(Path(engine_cache.__file__).parents[1])!r})\n"
        "from pathlib import Path\nfrom ovsdino_runtime.engines.cache import *\n"
        f"with building({key!r}):\n    Path({str(ready)!r}).touch(); time.sleep(60)"
    )
    with building(key) as waited:
        assert not waited
    with subprocess.Popen([sys.executable, "-c", code]) as other:
        while not ready.exists():
            assert other.poll() is None
            time.sleep(0.01)
        with (engines_dir() / f"{key.digest}.lock").open("a+b") as lock:
            assert not engine_cache._lock(lock, wait=False)
        other.kill()
    with building(key) as waited:
        assert not waited
