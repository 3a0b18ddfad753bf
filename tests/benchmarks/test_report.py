"""The three files of a report, and the verdicts of a comparison."""

import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from ovsdino_benchmarks.datasets.protocol import OVSDINO
from ovsdino_benchmarks.reports.report import load_papers, write_report
from ovsdino_benchmarks.results import results
from ovsdino_benchmarks.results.compare import compare
from ovsdino_benchmarks.results.environment import read_environment
from ovsdino_benchmarks.results.results import (
    Baseline,
    ClassScore,
    Fresh,
    Latency,
    Quality,
    Report,
    ResultError,
    SkippedBaseline,
    Stage,
    StageMedians,
    Times,
)

TIMES = Times(p50=100.0, p90=110.0, p99=120.0, repeats=20)
FRESH = Fresh(load=500.0, first=200.0, idle=300.0, peak=360.0)


def quality(data="voc20", miou=0.8, extent="full set"):
    return Quality(
        data=data,
        extent=extent,
        photos=1449,
        model="nano",
        form="onnx",
        engine="ONNX Runtime",
        protocol=OVSDINO,
        threshold=None,
        miou=miou,
        miou_all=miou,
        boundary_miou=0.5,
        pixel_accuracy=0.9,
        classes=(
            ClassScore(name="cat <b>", pixels=10, iou=0.5, boundary_iou=None),
            ClassScore(name="dog", pixels=0, iou=None, boundary_iou=None),
        ),
        confusion="c.npz",
        data_digest="d",
        model_digest="m",
        seconds=1.0,
        command="ovsdino-bench quality --data 'a <folder>'",
        environment=read_environment(),
    )


def latency(classes=171, p50=100.0):
    return Latency(
        model="nano",
        form="onnx",
        engine="ONNX Runtime",
        device="cpu",
        threads=2,
        size="640x480",
        classes=classes,
        templates=80,
        windows=2,
        batch=2,
        warmup=3,
        end_to_end=replace(TIMES, p50=p50),
        stages=(
            Stage(name="vision", times=TIMES, floor=50.0, floor_of="products"),
            Stage(name="decode", times=TIMES, floor=None, floor_of=""),
        ),
        fresh=FRESH,
        baselines=(
            Baseline(
                name="torch",
                how="torch eager",
                times=replace(TIMES, p50=2 * p50),
                fresh=FRESH,
                agreement=0.99,
            ),
        ),
        skipped=(SkippedBaseline("torch-compile", "torch.compile", "no compiler"),),
        gflop=20.0,
        gflops=400.0,
        copy_gb_s=10.0,
        command="ovsdino-bench latency",
        environment=read_environment(),
    )


class Page(HTMLParser):
    """Checks that elements are closed in order, and collects what they refer to."""

    VOID = ("meta", "img", "path", "use", "br")

    def __init__(self):
        super().__init__()
        self.open, self.references, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.references += [value for name, value in attrs if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture
def folder(tmp_path):
    results.save(Report(quality=(quality(),)), tmp_path / "results/q.json")
    results.save(Report(latency=(latency(10), latency(171))), tmp_path / "results/l.json")
    pictures = tmp_path / "results/gallery"
    pictures.mkdir()
    for view in ("photo", "prediction", "truth", "errors"):
        (pictures / f"a.{view}.jpg").write_bytes(b"picture")
    return tmp_path / "results"


def test_the_page_holds_all_it_needs(folder, tmp_path):
    files = write_report([folder], tmp_path / "report", gallery=True)
    html = files[2].read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    assert not page.open
    assert page.references
    assert all(one.startswith(("data:image/jpeg;base64,", "#")) for one in page.references)
    assert "<script" not in html
    assert "url(http" not in html
    assert "@import" not in html
    assert html.count("<svg") == 5  # classes, two sweeps, two stages
    assert 'name="viewport"' in html
    assert "cat <b>" not in html
    for text in ("Beside OVS-DINO, Table 1", "measured: nano, onnx", "80.0", "a <folder>", "no compiler"):
        assert text in page.text


def test_markdown_says_the_same(folder, tmp_path):
    text = write_report([folder], tmp_path / "report")[1].read_text(encoding="utf-8")
    assert "| measured: nano, onnx, protocol ovsdino | - | - | - | 80.0 |" in text
    assert "| vision | 100 | 110 | 120 | 50 | 2.0 | products |" in text
    assert "ovsdino-bench quality --data 'a <folder>'" in text
    for line in text.splitlines():
        assert not line.startswith("| ") or line.endswith(" |")


def test_what_varies_is_plotted_for_each_model(tmp_path):
    small, large = latency(10), replace(latency(10), size="1920x1080", end_to_end=replace(TIMES, p50=900.0))
    for name, some, plots in (
        ("sizes", (small, large), ["megapixels of the photo"] * 2),
        ("classes", (small, latency(171)), ["classes"] * 2),
        ("models", (small, replace(latency(171), model="other")), []),
        ("all", (small, large, latency(171)), ["classes"] * 2 + ["megapixels of the photo"] * 2),
    ):
        results.save(Report(latency=some), tmp_path / name / "l.json")
        page = write_report([tmp_path / name], tmp_path / name / "report")[2].read_text(encoding="utf-8")
        assert re.findall(r">(classes|megapixels of the photo)</text>", page) == plots
    assert ">0.31</text>" in page  # the ticks: 640x480 and 1920x1080
    assert ">2.07</text>" in page
    assert ">runtime, 171 classes</text>" in page


def test_a_subset_is_marked(tmp_path):
    results.save(Report(quality=(replace(quality(extent="subset"), photos=70),)), tmp_path / "r/q.json")
    text = write_report([tmp_path / "r"], tmp_path / "report")[1].read_text(encoding="utf-8")
    assert "80.0* (70)" in text


def test_json_comes_back_as_it_was(folder, tmp_path):
    files = write_report([folder / "q.json", folder / "l.json"], tmp_path / "report")
    report = results.load(files[0])
    assert report.quality == (quality(),) or report.quality[0].data == "voc20"
    assert len(report.latency) == 2
    assert results.load(tmp_path / "report") == report


def test_results_that_cannot_be_read_are_refused(tmp_path):
    with pytest.raises(ResultError, match="no such file"):
        results.load(tmp_path / "nothing.json")
    with pytest.raises(ResultError, match="no results in it"):
        results.load(tmp_path)
    for text, message in (
        ("{", "not a result of"),
        ('{"schema_version": 2}', "schema_version 2, this program reads 1"),
        ('{"schema_version": 1, "kind": "ovsdino-benchmarks"}', "missing key"),
    ):
        (tmp_path / "x.json").write_text(text, encoding="utf-8")
        with pytest.raises(ResultError, match=message):
            results.load(tmp_path / "x.json")


def test_the_papers_averages_are_those_of_their_rows():
    """Both tables, rows with all benchmarks; OVS-DINO's own table was checked to agree to rounding."""
    for table in load_papers():
        for row in table.rows:
            assert len(row.miou) == len(table.benchmarks)
            values = [value for value in row.miou if value is not None]
            if row.average is not None:
                assert sum(values) / len(values) == pytest.approx(row.average, abs=0.06)


def verdicts(old, new, **limits):
    findings = compare(old, new, **({"max_slowdown": 0.05, "max_miou_drop": 0.5} | limits))
    return {finding.what.split(" ")[0]: finding.regressed for finding in findings}


def test_a_slowdown_beyond_the_limit_is_a_regression():
    old = Report(latency=(latency(p50=100),))
    assert verdicts(old, Report(latency=(latency(p50=104.9),))) == {"latency": False}
    assert verdicts(old, Report(latency=(latency(p50=105.1),))) == {"latency": True}
    assert verdicts(old, Report(latency=(latency(p50=105.1),)), max_slowdown=0.1) == {"latency": False}
    assert verdicts(old, Report(latency=(latency(p50=10),))) == {"latency": False}


def test_a_drop_of_miou_beyond_the_limit_is_a_regression():
    old = Report(quality=(quality(miou=0.8),))
    assert verdicts(old, Report(quality=(quality(miou=0.796),))) == {"miou": False, "boundary_miou": False}
    assert verdicts(old, Report(quality=(quality(miou=0.794),))) == {"miou": True, "boundary_miou": False}
    worse = replace(quality(), boundary_miou=0.49)
    assert verdicts(old, Report(quality=(worse,))) == {"miou": False, "boundary_miou": True}


def test_a_finding_says_what_got_worse():
    findings = compare(
        Report(latency=(latency(p50=100),)),
        Report(latency=(latency(p50=150),)),
        max_slowdown=0.05,
        max_miou_drop=1,
    )
    assert findings[0].line() == (
        "REGRESSED latency nano, onnx, cpu, 2 threads, 640x480, 171 classes: 100.00 -> 150.00 ms (+50.0 %)"
    )


def test_what_cannot_be_compared_is_refused():
    old = Report(latency=(latency(),), quality=(quality(),))
    for new, message in (
        (Report(quality=(quality(),)), "171 classes: the old report has it and the new one has not"),
        (replace(old, quality=(replace(quality(), data_digest="other"),)), "on other photos"),
    ):
        with pytest.raises(ResultError, match=message):
            verdicts(old, new)
    with pytest.raises(ResultError, match="nothing to compare"):
        verdicts(Report(), old)


def test_engines_stand_side_by_side(tmp_path):
    medians = StageMedians(decode=5.25, resize=1.5, vision=140.75, text=0.0, merge=20.5)
    way = Baseline(
        name="openvino",
        how="the runtime on OpenVINO",
        times=TIMES,
        fresh=FRESH,
        agreement=1.0,
        engine="OpenVINO 9",
        stages=medians,
        joules=3.25,
    )
    one = replace(latency(), medians=medians, baselines=(way,))
    results.save(Report(latency=(one,)), tmp_path / "latency.json")
    text = write_report([tmp_path], tmp_path / "report")[1].read_text(encoding="utf-8")
    assert "| nano | 640x480 | 171 | runtime (ONNX Runtime) | 5.25 | 1.5 | 141 | 0 | 20.5 | - |" in text
    assert "| nano | 640x480 | 171 | the runtime on OpenVINO | 5.25 | 1.5 | 141 | 0 | 20.5 | 3.25 |" in text


def test_a_start_that_was_not_measured_is_left_empty(tmp_path):
    one = latency()
    one = replace(one, fresh=None, baselines=(replace(one.baselines[0], fresh=None),))
    other = replace(one, classes=10)
    results.save(Report(latency=(one, other)), tmp_path / "latency.json")
    text = write_report([tmp_path], tmp_path / "report")[1].read_text(encoding="utf-8")
    assert "| torch eager | 200 | 110 | 120 | 5.00 | 2.00 |  |  | 99.0 |" in text
