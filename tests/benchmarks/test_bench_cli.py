"""The commands as a user meets them: what they print, what they write, and one line for each mistake."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from ovsdino_benchmarks.cli import bench, evaluate
from ovsdino_benchmarks.results import results

ROOT = Path(__file__).resolve().parents[2]


def run(*arguments, command=bench):
    return CliRunner().invoke(command, [str(one) for one in arguments])


def test_quality_then_report_then_compare(tiny, stripes, tmp_path):
    out = tmp_path / "out"
    arguments = ("--data", stripes, "--model", tiny, "--protocol", "model", "--threads", 1, "--out", out)
    result = run("quality", *arguments, "--gallery", 2)
    assert result.exit_code == 0, result.output
    assert "windows 32/16, logits averaged" in result.stdout
    assert "stripes (11 photos, own folder), tiny, onnx: mIoU 9" in result.stdout
    report = results.load(out / "quality-stripes-tiny-onnx.json")
    assert (out / report.quality[0].confusion).is_file()
    assert len(list((out / "gallery").iterdir())) == 8

    again = run(*arguments, command=evaluate)
    assert again.exit_code == 0, again.output
    assert again.stdout == result.stdout

    result = run("report", out, "--gallery", "--out", tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert {path.suffix for path in (tmp_path / "report").iterdir()} == {".json", ".md", ".html"}
    result = run("compare", out, tmp_path / "report")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("ok        miou tiny, onnx, stripes")


def test_the_pictures_of_two_data_sets_have_their_own_classes(tiny, stripes, tmp_path):
    """The second set has the classes in another order; were they shared, its pictures would be wrong."""
    out, options = tmp_path / "out", ("--protocol", "model", "--threads", 1, "--gallery", 1)
    run("quality", "--data", stripes, "--model", tiny, "--out", out, *options)
    errors = (out / "gallery/stripes-tiny-onnx-00000-0.errors.jpg").read_bytes()
    (stripes / "names.txt").write_text("blue\ngreen\nred\n", encoding="utf-8")
    result = run("quality", "--data", stripes, "--model", tiny, "--out", out, *options)
    assert result.exit_code == 0, result.output
    assert (out / "gallery/stripes-tiny-onnx-00000-0.errors.jpg").read_bytes() != errors


@pytest.mark.parametrize(
    "arguments",
    [("quality", "--data", "x"), ("latency",), ("kernels",), ("device", "--model", "nano"), ("report", "x")],
)
def test_an_out_that_cannot_be_written_is_refused_before_anything_is_measured(tmp_path, arguments):
    (tmp_path / "file").write_text("")
    result = run(*arguments, "--out", tmp_path / "file/out")
    assert result.exit_code == 2
    assert result.stderr == (
        f"Error: {tmp_path}/file/out: {tmp_path}/file is not a directory; choose another --out\n"
    )


def test_the_device_bench_wants_a_bundle_with_kernels():
    result = run("device")
    assert result.exit_code == 2
    assert "Missing option '--model'" in result.stderr
    assert "ovsdino-export --kernels sm_XX" in " ".join(run("device", "--help").stdout.split())


def test_compare_fails_where_something_got_worse(tiny, stripes, tmp_path):
    out = tmp_path / "out"
    run("quality", "--data", stripes, "--model", tiny, "--protocol", "model", "--threads", 1, "--out", out)
    file = out / "quality-stripes-tiny-onnx.json"
    text = file.read_text(encoding="utf-8")
    miou = results.load(file).quality[0].miou
    (tmp_path / "worse.json").write_text(text.replace(f'"miou": {miou}', '"miou": 0.5'), encoding="utf-8")
    result = run("compare", out, tmp_path / "worse.json", "--max-slowdown", "5%", "--max-miou-drop", 0.5)
    assert result.exit_code == 1
    assert "REGRESSED miou tiny, onnx, stripes" in result.stdout


def test_latency_writes_a_result(tiny, tmp_path, monkeypatch, quick):
    monkeypatch.setenv("PYTHONPATH", ":".join(str(ROOT / name) for name in ("", "runtime", "benchmarks")))
    options = ("--sizes", "40x32", "--class-counts", "3", "--repeats", 2, "--warmup", 1, "--no-baselines")
    result = run("latency", "--model", tiny, "--threads", 1, *options, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "head, merge, upsample, argmax" in result.stdout
    assert results.load(tmp_path / "latency-tiny-onnx.json").latency[0].classes == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quality", "--data", "nowhere"), "nowhere: no such folder"),
        (("quality", "--data", "."), "names.txt: no such file; write one class a line"),
        (("quality", "--data", ".", "--vocabulary", "voc21"), "no labels/*.png in it"),
        (
            ("quality", "--data", ".", "--benchmark", "voc12"),
            "unknown benchmark 'voc12': expected one of voc21",
        ),
        (
            ("quality", "--data", ".", "--benchmark", "ade20k"),
            "no ade20k in it: expected ADEChallengeData2016",
        ),
        (("latency", "--model", "nowhere"), "nowhere: neither a packaged model nor a bundle"),
        (("latency", "--sizes", "640"), "'640' is not like 640x480,1920x1080"),
        (("latency", "--class-counts", "many"), "'many' is not like 10,100,1000"),
        (("report", "nowhere.json"), "nowhere.json: no such file"),
        (("compare", ".", "."), "no results in it"),
        (("compare", ".", ".", "--max-slowdown", "much"), "'much' is not like 5% or 0.05"),
    ],
)
def test_a_mistake_gets_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "protocol ovsdino cuts windows of 448 px where the model reads 32 px"),
        (("--protocol", "dinov3seg"), "averages features"),
        (("--protocol", "mine"), "unknown protocol 'mine'"),
        (("--protocol", "model", "--templates", "mine"), "unknown templates 'mine'"),
        (
            ("--protocol", "model", "--precision", "fp16"),
            "has no graph vision.fp16; export it with --fp16",
        ),
        (("--protocol", "model", "--form", "torch"), "unknown model 'tiny'"),
        (
            ("--protocol", "model", "--vocabulary", "voc20", "--reduce-zero-label", "--ignore", "7"),
            "out of range",
        ),
    ],
)
def test_a_model_that_does_not_fit_gets_one_line(tiny, stripes, options, message, tmp_path):
    result = run("quality", "--data", stripes, "--model", tiny, *options, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == 1
    assert message in errors[0]
