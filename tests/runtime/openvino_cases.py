"""OpenVINO: the same features as ONNX Runtime, on graphs with local functions, from many threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.base.options import RuntimeOptions
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.bundle.models import find_bundle
from ovsdino_runtime.engines import onnxruntime, processor
from ovsdino_runtime.engines.onnxruntime import verify_golden
from ovsdino_runtime.engines.processor import choose_engine, open_vision
from ovsdino_runtime.segmenter import Segmenter
from tests.runtime.dinov3seg_bundle import colour_bundle

openvino = pytest.importorskip("openvino")
COLOURS = "red, green, blue"


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path))


@pytest.fixture(scope="module")
def nano():
    return load_bundle(find_bundle("nano"))


def has_bf16():
    return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_nano_is_what_it_is_on_onnx_runtime(nano):
    """Its graph has local functions, on which OpenVINO 2026.4 crashes unless they are inlined."""
    engine = open_vision(nano, RuntimeOptions(engine="openvino", threads=1))
    assert "FP32, 1 threads" in engine.description
    reference = onnxruntime.open_engine(nano, "vision", threads=1)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 448, 448)).astype(np.float32)
    actual, expected = (e.run({"pixels": pixels})["features"] for e in (engine, reference))
    np.testing.assert_allclose(actual, expected, atol=2e-4)
    again = open_vision(nano, RuntimeOptions(engine="openvino", threads=1))  # from the cache
    np.testing.assert_array_equal(again.run({"pixels": pixels})["features"], actual)


@pytest.mark.skipif(not has_bf16(), reason="the processor has no BF16 products")
def test_bf16_passes_the_same_gate(nano):
    engine = open_vision(nano, RuntimeOptions(engine="openvino", precision="bf16", threads=1))
    assert 0.999 < verify_golden(nano, engine) < 0.999999


@pytest.mark.skipif(not has_bf16(), reason="the processor has no BF16 products")
def test_what_was_compiled_for_one_precision_is_not_taken_for_another(nano):
    """OpenVINO 2026.4's own cache does that, and the process dies or computes in the other precision."""
    pixels = np.random.default_rng(0).normal(size=(1, 3, 448, 448)).astype(np.float32)
    outputs: dict[str, list] = {"fp32": [], "bf16": []}
    for precision in ("fp32", "bf16", "fp32", "bf16"):
        engine = open_vision(nano, RuntimeOptions(engine="openvino", precision=precision, threads=1))
        outputs[precision].append((engine.from_cache, engine.run({"pixels": pixels})["features"]))
    for (first, computed), (second, again) in outputs.values():
        assert (first, second) == (False, True)
        np.testing.assert_array_equal(computed, again)
    assert np.abs(outputs["fp32"][0][1] - outputs["bf16"][0][1]).max() > 1e-4


@pytest.mark.skipif(has_bf16(), reason="the processor has BF16 products")
def test_bf16_needs_the_processor(nano):
    with pytest.raises(EngineError, match="this processor has no BF16 products; use precision fp32"):
        open_vision(nano, RuntimeOptions(engine="openvino", precision="bf16", threads=1))


def test_labels_are_those_of_onnx_runtime(shared_bundle, flag):
    segmenter = Segmenter.load(shared_bundle.path, engine="openvino", threads=1)
    expected = Segmenter.load(shared_bundle.path, threads=1)(flag, COLOURS)
    result = segmenter(flag, COLOURS)
    assert result.engine.startswith("OpenVINO")
    np.testing.assert_array_equal(result.labels, expected.labels)
    np.testing.assert_allclose(result.scores, expected.scores, atol=2e-3)


def test_threads_do_not_disturb_each_other(shared_bundle):
    engine = open_vision(shared_bundle, RuntimeOptions(engine="openvino", threads=1))
    random = np.random.default_rng(0)
    batches = [random.normal(size=(1, 3, 64, 64)).astype(np.float32) for _ in range(40)]
    alone = [engine.run({"pixels": batch})["features"] for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda batch: engine.run({"pixels": batch})["features"], batches))
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one, other)


def test_auto_takes_the_faster_engine_and_remembers_it(shared_bundle, monkeypatch):
    class Slow:
        description = "slow"

        def __init__(self, seconds):
            self.seconds = seconds

        def run(self, _inputs):
            threads.append(self.seconds)
            processor.time.sleep(self.seconds)
            return {}

    threads = []
    engines = {"onnxruntime": Slow(0.01), "openvino": Slow(0.001)}
    options = RuntimeOptions(engine="auto", threads=1)
    assert choose_engine(shared_bundle, options, engines.__getitem__) == "openvino"
    assert len(threads) == 2 * (processor.ROUNDS + 1)
    assert choose_engine(shared_bundle, options, None) == "openvino"  # nothing is opened or measured


def test_auto_leaves_out_what_fails_and_says_why_if_all_do(shared_bundle):
    def open_one(name):
        if name == "openvino":
            raise EngineError("does not reproduce the model")
        return onnxruntime.open_engine(shared_bundle, "vision", threads=1)

    options = RuntimeOptions(engine="auto", threads=1)
    assert choose_engine(shared_bundle, options, open_one) == "onnxruntime"

    def fail(name):
        raise EngineError("is broken")

    with pytest.raises(EngineError, match="onnxruntime: is broken; openvino: is broken"):
        choose_engine(shared_bundle, RuntimeOptions(threads=7), fail)


def test_auto_says_which_engine_it_took(shared_bundle, flag):
    result = Segmenter.load(shared_bundle.path, engine="auto", threads=1)(flag, COLOURS)
    assert result.engine.startswith(("ONNX Runtime", "OpenVINO"))


def test_a_precision_that_the_bundle_lacks(shared_bundle):
    with pytest.raises(BundleError, match="has no int8 vision graph"):
        open_vision(shared_bundle, RuntimeOptions(engine="openvino", precision="int8"))


def test_another_version_or_processor_is_measured_anew(shared_bundle, monkeypatch):
    asked = []

    def open_one(name):
        asked.append(name)
        return onnxruntime.open_engine(shared_bundle, "vision", threads=1)

    options = RuntimeOptions(engine="auto", threads=1)
    choose_engine(shared_bundle, options, open_one)
    choose_engine(shared_bundle, options, open_one)
    assert asked == ["onnxruntime", "openvino"]
    monkeypatch.setattr(processor, "engine_version", lambda name: f"{name} 99")
    choose_engine(shared_bundle, options, open_one)
    assert len(asked) == 4
    monkeypatch.setattr(processor, "processor_name", lambda: "another")
    choose_engine(shared_bundle, options, open_one)
    assert len(asked) == 6


def test_a_compiled_model_is_kept_checked_and_made_again_if_damaged(shared_bundle, tmp_path):
    options = RuntimeOptions(engine="openvino", threads=1)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 64, 64)).astype(np.float32)

    def open_and_run():
        engine = open_vision(shared_bundle, options)
        return engine.from_cache, engine.run({"pixels": pixels})["features"]

    first, expected = open_and_run()
    assert not first
    verified = {file.name for file in (tmp_path / "verified").iterdir()}
    second, again = open_and_run()
    assert second
    np.testing.assert_array_equal(again, expected)
    assert len({file.name for file in (tmp_path / "verified").iterdir()} - verified) == 1  # checked as well
    (folder,) = (tmp_path / "openvino").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    (blob,) = folder.glob("*/*.blob")
    blob.chmod(0o600)
    blob.write_bytes(bytes(1000))
    damaged, again = open_and_run()
    assert not damaged
    np.testing.assert_array_equal(again, expected)
    for place, mode in ((tmp_path, 0o755), (folder.parent, 0o755), (folder, 0o777)):
        place.chmod(mode)
    with pytest.raises(EngineError, match=r"not loaded, for it may not be the model: .* by other users"):
        open_vision(shared_bundle, options)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_dinov3seg_labels_as_on_onnx_runtime(tmp_path, flag, precision):
    if precision == "bf16" and not has_bf16():
        pytest.skip("the processor has no BF16 products")
    bundle = colour_bundle(tmp_path)
    expected = Segmenter.load(bundle.path, threads=1)(flag, COLOURS)
    segmenter = Segmenter.load(bundle.path, engine="openvino", precision=precision, threads=1)
    result = segmenter(flag, COLOURS)
    assert result.engine.startswith("OpenVINO")
    assert (result.labels == expected.labels).mean() > 0.99
    np.testing.assert_allclose(result.scores, expected.scores, atol=2e-2)
    more = ["red", "green", "blue", *(f"word{number}" for number in range(27))]
    assert segmenter(flag, more).labels.shape == flag.shape[:2]  # any number of classes
