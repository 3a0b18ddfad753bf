"""The usual ways label as the runtime does; every stage is measured; new processes report."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ovsdino_benchmarks.latency import baselines as ways
from ovsdino_benchmarks.latency.baselines import BaselineJob, choose_baselines, open_way, why_not
from ovsdino_benchmarks.latency.case import LatencyRequest, choose_classes
from ovsdino_benchmarks.latency.cold_start import ChildError, run_child
from ovsdino_benchmarks.latency.energy import EnergyMeter
from ovsdino_benchmarks.latency.latency import describe_latency, measure, write_latency
from ovsdino_benchmarks.model_variants import models
from ovsdino_benchmarks.model_variants.models import ModelSpec
from ovsdino_benchmarks.results.results import load

ROOT = Path(__file__).resolve().parents[2]
WORDS = (("red",), ("green",), ("blue",))


class Colours(nn.Module):
    """The tiny bundle's vision graph in torch, without its last step."""

    def forward(self, pixels):
        means = nn.functional.avg_pool2d(pixels, 8)
        return torch.cat([means, torch.zeros_like(means[:, :1])], dim=1)


@pytest.fixture
def job(tiny, tmp_path):
    unit = np.array([[1, -1, -1, 0], [-1, 1, -1, 0], [-1, -1, 1, 0]], np.float32) / np.float32(3**0.5)
    np.save(tmp_path / "text.npy", unit)
    return lambda way: BaselineJob(
        way=way,
        model=tiny,
        form="onnx",
        checkpoint=None,
        threads=1,
        templates="model",
        classes=WORDS,
        text=str(tmp_path / "text.npy"),
    )


@pytest.fixture
def photo(stripes):
    return stripes / "images/5.png"


@pytest.fixture
def paths(monkeypatch):
    """New processes find our packages as this one does."""
    roots = [str(ROOT), *(str(ROOT / name) for name in ("runtime", "benchmarks"))]
    monkeypatch.setenv("PYTHONPATH", ":".join(roots))


@pytest.mark.parametrize("way", ["torch", "onnxruntime"])
def test_the_usual_ways_label_as_the_runtime_does(job, photo, way, monkeypatch):
    """But for rounding, and the runtime's antialias on a photo that is made smaller."""
    monkeypatch.setattr(models, "load_torch", lambda *_, **__: Colours())
    with Image.open(photo) as image:
        image.resize((45, 32)).save(photo)  # the model's own size: nothing is resized
    expected = open_way(job("runtime"))(photo)
    labels = open_way(job(way))(photo)
    assert labels.dtype == np.uint16
    assert (labels == expected).mean() > 0.999


def test_a_torch_form_gives_the_features_of_the_graph(tiny):
    bundle = models.load_bundle(tiny)
    pixels = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    engine = models.TorchVision(Colours(), threads=1)
    expected = models.open_engine(bundle, ModelSpec(tiny, threads=1)).run({"pixels": pixels})["features"]
    np.testing.assert_allclose(engine.run({"pixels": pixels})["features"], expected, atol=1e-6)
    assert "eager" in engine.description


def test_a_new_process_reports_time_and_memory(job, photo, paths):
    fresh = run_child(job("runtime"), photo)
    assert fresh.load > 0
    assert fresh.first > 0
    assert fresh.peak >= fresh.idle > 1


def test_a_new_process_that_fails_says_why(job, photo, paths):
    with pytest.raises(ChildError, match=r"runtime in a new process ended with 1: .*no such file"):
        run_child(job("runtime"), photo.with_name("nothing.png"))


def test_a_way_without_room_is_not_tried(job, monkeypatch):
    monkeypatch.setattr(ways, "memory", lambda *_: 100.0)
    wide = BaselineJob(**{**vars(job("onnxruntime")), "classes": tuple((f"c{i}",) for i in range(1000))})
    assert "full-size scores of 1000 classes need" in why_not(wide, (480, 640), (448, 2048))
    assert why_not(job("onnxruntime"), (48, 64), (32, 128)) == ""
    # Measured at 640x480 with 1000 classes: 6.9 GB in numpy, 4.2 GB in torch.
    torch_way = BaselineJob(**{**vars(wide), "way": "torch"})
    assert "need 6,972 MB" in why_not(wide, (480, 640), (448, 2048))
    assert "need 4,438 MB" in why_not(torch_way, (480, 640), (448, 2048))


def test_baselines_are_chosen():
    assert choose_baselines(True, compiled=False) == ("torch", "onnxruntime")
    assert choose_baselines(True, compiled=True) == ("torch", "torch-compile", "onnxruntime")
    assert choose_baselines(False, compiled=True) == ()
    assert choose_baselines(False, compiled=False, engines=True) == ("openvino", "openvino-bf16", "int8")


def test_energy_is_the_difference_of_all_packages(tmp_path):
    assert not EnergyMeter(tmp_path).readable
    for name, micro in (("intel-rapl:0", 2_000_000), ("intel-rapl:1", 500_000), ("intel-rapl:0:0", 7)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "energy_uj").write_text(f"{micro}\n")
    meter = EnergyMeter(tmp_path)
    before = meter.read()
    assert (meter.readable, before) == (True, 2.5)  # a part of a package is in its package's figure
    (tmp_path / "intel-rapl:0/energy_uj").write_text("3500000\n")
    assert meter.since(before) == 1.5
    (tmp_path / "intel-rapl:0/energy_uj").write_text("1\n")  # it began anew
    assert meter.since(before) is None
    (tmp_path / "intel-rapl:1/energy_uj").write_text("closed")
    assert meter.read() is None


def test_any_number_of_classes_can_be_measured():
    assert choose_classes(171).names[0] == "person"
    for count in (1, 171, 3000):
        assert len(set(choose_classes(count).names)) == count


def test_what_is_measured_is_kept_when_the_next_one_is_interrupted(tiny, paths, quick, tmp_path):
    request = LatencyRequest(
        spec=ModelSpec(tiny, threads=1), sizes=((48, 40),), classes=(5, 7), repeats=1, warmup=1, baselines=()
    )

    def interrupt(step):
        if "7 classes" in step:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latency(request, tmp_path, interrupt)
    assert [one.classes for one in load(tmp_path / "latency-tiny-onnx.json").latency] == [5]


def test_every_stage_is_measured_with_its_floor(tiny, paths, quick):
    spec = ModelSpec(tiny, threads=1)
    request = LatencyRequest(
        spec=spec,
        sizes=((48, 40),),
        classes=(5, 7),
        repeats=2,
        warmup=1,
        baselines=("torch", "onnxruntime"),
        new_processes="first",
    )
    first, second = measure(request)
    assert [case.fresh is not None for case in (first, *first.baselines)] == [True, True]
    assert [case.fresh is not None for case in (second, *second.baselines)] == [False, False]
    assert "new process" in describe_latency(first)
    assert "new process" not in describe_latency(second)
    assert (first.classes, second.classes) == (5, 7)
    assert (first.size, first.windows, first.threads, first.templates) == ("48x40", 2, 1, 1)
    names = [stage.name for stage in first.stages]
    assert names[:4] == ["decode", "resize", "windows", "vision"]
    assert all(stage.times.p50 >= 0 and stage.times.repeats == 2 for stage in first.stages)
    with_floor = {stage.name for stage in first.stages if stage.floor is not None}
    assert with_floor == {*names[1:4], "text, one new class", "head, merge, upsample, argmax"}
    # one Conv (4, 3, 8, 8) on a 4x4 grid, two windows
    assert first.gflop == round(2 * 2 * (4 * 16) * (3 * 8 * 8) / 1e9, 3)
    assert [way.name for way in first.baselines] == ["onnxruntime"]
    assert first.baselines[0].agreement == 1
    assert first.baselines[0].stages is None  # it has other stages than the runtime
    assert first.medians is not None
    assert 0 < first.medians.vision + first.medians.merge < first.end_to_end.p99
    assert (
        "not one that this version can build" in first.skipped[0].why
    )  # the tiny bundle has no torch network
    assert "x its floor" in describe_latency(first)
    assert first.throughput == pytest.approx(1000 / first.end_to_end.p50)
