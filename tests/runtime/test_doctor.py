"""What the doctor sees, and what it says about it."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ovsdino_runtime import doctor as module
from ovsdino_runtime.cuda.devices import Gpu
from ovsdino_runtime.doctor import (
    as_numbers,
    doctor,
    examine_cuda,
    examine_engines,
    examine_gpus,
    examine_known_bad,
    examine_packages,
    load_known_bad,
)
from ovsdino_runtime.engines.cache import BATCHES, EngineKey, EngineRecord, engines_dir, store_engine


def text_of(findings):
    return "\n".join(map(str, findings))


def test_the_command_looks_at_this_machine(monkeypatch):
    monkeypatch.setattr(module, "find_gpus", lambda: ())
    result = CliRunner().invoke(doctor)
    assert result.exit_code == 0
    for expected in ("Python 3.", "numpy ", "no NVIDIA GPU", "no engines in "):
        assert expected in result.output


@pytest.mark.parametrize(
    ("package", "version", "expected"),
    [
        ("tensorrt", "10.3.0", "DINOv3"),
        ("tensorrt", "10.7.0.23", "DINOv3"),
        ("tensorrt", "10.8.0.43", "fused kernels"),
        ("tensorrt", "10.12.0.36", None),
        ("tensorrt", "10.14.1", "GridSample"),
        ("tensorrt", "11.4.0.106", "no FP16 flag"),
        ("tensorrt", "8.6.1", "not supported"),
        ("triton", "3.8.0", "wrong results"),
        ("triton", "3.9.0", None),
    ],
)
def test_known_faults_are_found_by_version(package, version, expected):
    said = text_of(examine_known_bad({package: version}))
    assert (expected in said) if expected else not said


def test_the_table_is_whole():
    for bad in load_known_bad():
        assert as_numbers(bad.since) < as_numbers(bad.below)
        assert bad.finding
        assert bad.meaning


def test_versions_compare_as_numbers():
    assert as_numbers("10.13") > as_numbers("10.9.0.34")
    assert as_numbers("2.9.0+cu128") == (2, 9, 0)
    assert as_numbers("1.18rc1") == (1, 18)


def test_what_is_missing_is_named_with_its_extra():
    said = text_of(examine_packages({}))
    assert "pip install '.[tensorrt]'" in said
    assert "`ovsdino run` has no engine: pip install '.[cpu]'" in said
    both = {"onnxruntime": "1.20", "onnxruntime-gpu": "1.20"}
    assert "both installed" in text_of(examine_packages(both))


def test_every_extra_of_the_project_is_known(monkeypatch):
    """The metadata is written as setuptools writes it, from setup.cfg; no package seems installed."""
    settings = configparser.ConfigParser()
    settings.read(Path(__file__).parents[2] / "setup.cfg", encoding="utf-8")
    extras = settings["options.extras_require"]
    lines = []
    for extra, requirements in extras.items():
        for requirement in filter(None, requirements.splitlines()):
            name, _, condition = map(str.strip, requirement.partition(";"))
            lines.append(f'{name}; {condition + " and " if condition else ""}extra == "{extra}"')
    monkeypatch.setattr(module.metadata, "requires", lambda _: lines)
    monkeypatch.setattr(module, "version_of", lambda _: None)
    assert set(module.required_packages()) == set(extras)
    said = text_of(module.examine_extras())
    for extra in extras:
        assert f"extra {extra} is not complete" in said
    assert {extra for extra, _ in module.ENGINES.values()} <= set(extras)


def test_a_driver_that_is_too_old_for_tensorrt_is_named():
    old = Gpu(name="L4", capability="sm_89", driver="550.54.14", memory=0, cuda="12.4")
    said = text_of(examine_cuda([old], {"tensorrt": "11.4.0.106", "cuda-bindings": "13.5.0"}))
    assert "ok    CUDA from Python: cuda-bindings 13.5.0" in said
    assert "WARN  tensorrt 11.4.0.106 is for CUDA 13, the driver runs CUDA 12.4" in said
    assert "update the driver to 580.65 or later, or install the tensorrt for CUDA 12" in said
    new = Gpu(name="L4", capability="sm_89", driver="580.65.06", memory=0, cuda="13.0")
    assert "WARN" not in text_of(examine_cuda([new], {"tensorrt": "11.4.0.106", "pycuda": "2026.1"}))
    assert "pip install '.[cuda]'" in text_of(examine_cuda([new], {}))
    assert text_of(examine_cuda([], {})) == ""


def test_every_extra_is_known(monkeypatch):
    requirements = [
        "numpy>=1.26",
        'onnxruntime>=1.18; extra == "cpu"',
        'pycuda>=2024.1; extra == "pycuda"',
        'ovsdino[train]; extra == "analysis"',
        'matplotlib>=3.8; extra == "analysis"',
        'elsewhere>=1; (platform_system == "Plan9") and extra == "analysis"',
    ]
    monkeypatch.setattr(module.metadata, "requires", lambda _: requirements)
    monkeypatch.setattr(module, "version_of", lambda name: "1" if name != "pycuda" else None)
    assert module.required_packages() == {
        "cpu": ["onnxruntime"],
        "pycuda": ["pycuda"],
        "analysis": ["matplotlib"],
    }
    said = text_of(module.examine_extras())
    assert "complete extras: cpu, analysis" in said
    assert "extra pycuda is not complete\n        lacks pycuda: pip install '.[pycuda]'" in said


def test_a_gpu_that_rtx_does_not_know_is_named():
    orin = Gpu("Orin", "sm_87", "CUDA 12.6")
    assert "does not know sm_87" in text_of(examine_gpus([orin], {"tensorrt-rtx": "1.7"}))
    assert "does not know" not in text_of(examine_gpus([orin], {"tensorrt": "10.3"}))


def test_engines_are_judged_for_this_machine():
    key = EngineKey(
        onnx="0" * 64,
        flavour="tensorrt-rtx",
        version="1.7",
        capabilities=("sm_89",),
        gpu="",
        driver="",
        precision="fp16",
        batches=BATCHES,
    )
    store_engine(
        EngineRecord(
            record_version=1,
            key=key,
            model="nano",
            graph="vision.fp16",
            sha256="1" * 64,
            size=1,
            seconds=1.0,
            layers={},
            golden_cosine=None,
        ),
        b"x",
    )
    here, there = Gpu("RTX 4090", "sm_89", "580"), Gpu("RTX 3090", "sm_86", "580")
    installed = {"tensorrt-rtx": "1.7"}
    assert [finding.level for finding in examine_engines([here], installed)] == ["ok"]
    assert "not for this machine: it was built for sm_89" in text_of(examine_engines([there], installed))
    assert "it will not be loaded" in text_of(examine_engines([here], {"tensorrt-rtx": "1.6"}))
    (engines_dir() / "broken.json").write_text("{}")
    assert "broken.json: damaged" in text_of(examine_engines([here], installed))


def test_the_doctor_needs_no_torch_and_no_engine():
    blocked = "".join(f"sys.modules[{name!r}] = None\n" for name in ("torch", "onnxruntime", "tensorrt_rtx"))
    code = (
        f"import sys\n{blocked}from ovsdino_runtime.doctor import doctor\ndoctor([], standalone_mode=False)"
    )
    source = Path(module.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=source
    )
    assert done.returncode == 0, done.stderr
