import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import ovsdino_runtime
from ovsdino_runtime.base.errors import BundleError, EngineError
from ovsdino_runtime.bundle.bundle import load_bundle, write_bundle
from ovsdino_runtime.engines import onnxruntime as engines
from ovsdino_runtime.engines.onnxruntime import open_engine, open_vision, verify_golden
from ovsdino_runtime.engines.threads import available_threads


def vision(bundle, **options):
    return open_vision(bundle, **({"threads": 1, "precision": "fp32"} | options))


def test_the_engine_runs_a_graph(shared_bundle):
    engine = open_engine(shared_bundle, "vision", threads=1)
    pixels = np.ones((3, 3, 64, 64), np.float32)
    features = engine.run({"pixels": pixels})["features"]
    assert features.shape == (3, 6, 8, 8)
    np.testing.assert_allclose(features[:, :3], 3**-0.5, rtol=1e-6)
    assert "ONNX Runtime" in engine.description
    assert "1 threads" in engine.description


def test_the_golden_pair_is_reproduced(shared_bundle):
    # golden features are stored in FP16: relative error 5e-4
    assert verify_golden(shared_bundle, vision(shared_bundle)) > 0.99999


def test_the_golden_pair_is_verified_once(shared_bundle, cache, monkeypatch):
    count = []
    monkeypatch.setattr(engines, "verify_golden", lambda *_, **__: count.append(1))
    vision(shared_bundle)
    vision(shared_bundle)
    assert len(count) == 1
    assert len(list((cache / "verified").iterdir())) == 1
    vision(shared_bundle, threads=2)
    assert len(count) == 2


def test_an_engine_that_does_not_reproduce_the_model_is_refused(staging, manifest, tmp_path, cache):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in staging.iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    with np.load(staging / "golden.npz") as golden:
        np.savez(wrong / "golden.npz", image=golden["image"], features=golden["features"][:, ::-1])
    bundle = write_bundle(tmp_path / "wrong.ovs", manifest, wrong)
    for _ in range(2):  # a failure leaves no stamp
        with pytest.raises(
            EngineError, match=r"does not reproduce .*golden\.npz: mean cosine 0\.\d+, expected"
        ):
            vision(bundle)
    assert not (cache / "verified").exists()


def test_a_cache_that_cannot_be_written_does_not_matter(shared_bundle, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OVSDINO_CACHE", str(tmp_path / "file"))
    vision(shared_bundle)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"threads": 0}, EngineError, "threads must be at least 1, got 0"),
        ({"precision": "fp16"}, BundleError, "has no fp16 vision graph, only vision, text"),
    ],
)
def test_what_there_is_no_engine_for_is_refused(shared_bundle, options, error, message):
    with pytest.raises(error, match=message):
        vision(shared_bundle, **options)


def test_inputs_that_are_not_the_manifests_are_refused(staging, manifest, tmp_path):
    graph = manifest.graphs["vision"]
    renamed = replace(graph, inputs=(replace(graph.inputs[0], name="image"),))
    changed = replace(manifest, graphs=manifest.graphs | {"vision": renamed})
    bundle = write_bundle(tmp_path / "renamed.ovs", changed, staging)
    with pytest.raises(
        BundleError, match=r"vision\.onnx: inputs \['pixels'\].* the manifest says inputs \['image'\]"
    ):
        open_engine(bundle, "vision")


def test_a_graph_that_cannot_be_loaded_is_refused_in_one_line(staging, manifest, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    for file in staging.iterdir():
        (wrong / file.name).write_bytes(file.read_bytes())
    (wrong / "vision.onnx").write_bytes(b"no graph")
    bundle = write_bundle(tmp_path / "wrong.ovs", manifest, wrong)
    with pytest.raises(EngineError, match=r"vision\.onnx: ONNX Runtime .* cannot load it") as caught:
        open_engine(bundle, "vision")
    assert "\n" not in str(caught.value)


def test_a_missing_engine_is_named_with_its_extra(shared_bundle):
    code = f"""
import sys
sys.modules["onnxruntime"] = None
from ovsdino_runtime.bundle.bundle import load_bundle
from ovsdino_runtime.engines.onnxruntime import open_engine
open_engine(load_bundle({str(shared_bundle.path)!r}), "vision")
"""
    source = Path(ovsdino_runtime.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=source
    )
    assert "EngineError: ONNX Runtime cannot be imported" in done.stderr
    assert "pip install '.[cpu]'" in done.stderr


def test_available_threads():
    assert available_threads() >= 1


def test_a_bundle_may_be_moved(bundle, tmp_path):
    bundle.path.rename(tmp_path / "moved.ovs")
    vision(load_bundle(tmp_path / "moved.ovs"))
