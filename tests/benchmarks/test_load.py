"""Load on a real server: every answer is counted, and what the clients saw is in the report."""

import json
import socket

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from ovsdino_benchmarks.cli import bench
from ovsdino_benchmarks.load.load import LoadReport
from ovsdino_runtime.base import strict_json
from ovsdino_runtime.segmenter import Segmenter
from ovsdino_runtime.serve.service import ServiceOptions
from tests.serve.running import running


@pytest.fixture
def arguments(tmp_path):
    """Two photos and two word lists."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(2):
        Image.fromarray(np.full((40, 60, 3), 90 * number, np.uint8)).save(photos / f"{number}.png")
    words = ["--classes", "red, green", "--classes", "blue, red"]
    return ["serve", "--photos", str(photos), *words, "--seconds", "2", "--out", str(tmp_path / "out")]


def read(tmp_path) -> LoadReport:
    return strict_json.parse(LoadReport, json.loads((tmp_path / "out" / "load.json").read_text()))


def test_a_report_of_what_the_clients_saw(tiny, arguments, tmp_path):
    with running(Segmenter.load(tiny, threads=1)) as address:
        done = CliRunner().invoke(bench, [*arguments, "--url", address, "--clients", "3", "--format", "rle"])
    assert done.exit_code == 0, done.output
    report = read(tmp_path)
    assert report.statuses == {"200": report.times.repeats}
    assert report.times.repeats == sum(minute.answers for minute in report.minutes) > 0
    assert 0 < report.times.p50 <= report.times.p90 <= report.times.p99 <= report.slowest
    assert report.throughput == pytest.approx(report.times.repeats / report.seconds, rel=0.05, abs=0.01)
    assert (report.clients, report.photos, report.format) == (3, ("0.png", "1.png"), "rle")
    assert report.memory_peak >= report.memory_last > 10
    page = (tmp_path / "out" / "load.md").read_text()
    assert f"By status: 200: {report.times.repeats}." in page
    assert "Minute by minute" in page
    assert "3 clients" in done.output


def test_refusals_are_counted_apart(tiny, arguments, tmp_path):
    with running(Segmenter.load(tiny, threads=1), ServiceOptions(waiting=1)) as address:
        done = CliRunner().invoke(bench, [*arguments, "--url", address, "--clients", "4"])
    assert done.exit_code == 0, done.output
    statuses = read(tmp_path).statuses
    assert set(statuses) == {"200", "429"}
    assert read(tmp_path).times.repeats == statuses["200"]


def test_who_does_not_answer_is_one_line(arguments, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    for url, message in (
        (f"http://127.0.0.1:{port}", f"--url http://127.0.0.1:{port}: no ovsdino server answers there"),
        ("nonsense", "--url nonsense: expected something like http://127.0.0.1:8080"),
    ):
        done = CliRunner().invoke(bench, [*arguments, "--url", url])
        assert done.exit_code == 2
        assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_a_request_that_is_refused_at_once_is_told(tiny, arguments):
    with running(Segmenter.load(tiny, threads=1)) as address:
        done = CliRunner().invoke(bench, [*arguments, "--url", address, "--classes", "", "--classes", "x,x"])
        assert done.exit_code == 0
        done = CliRunner().invoke(bench, [*arguments[:3], "--classes", "x,x", "--url", address])
    assert done.exit_code == 2
    assert "the first request got 422: " in done.stderr
