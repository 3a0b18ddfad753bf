"""How many threads a process may use, by made-up control groups."""

import pytest

from ovsdino_runtime.engines import threads
from ovsdino_runtime.engines.threads import available_threads, cpu_quota


def write(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("_max", ".max").replace("cpu_cfs", "cpu.cfs")).write_text(text)


@pytest.mark.parametrize(
    ("limit", "expected"), [("150000 100000", 1.5), ("max 100000", None), ("50000 100000", 0.5), ("", None)]
)
def test_version_2(tmp_path, limit, expected):
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/app\n")
    write(tmp_path / "root" / "pod" / "app", cpu_max=limit)
    assert cpu_quota(tmp_path / "root", own) == expected


def test_a_group_above_may_be_tighter(tmp_path):
    own = tmp_path / "cgroup"
    own.write_text("0::/pod/app\n")
    write(tmp_path / "root" / "pod", cpu_max="200000 100000")
    write(tmp_path / "root" / "pod" / "app", cpu_max="400000 100000")
    assert cpu_quota(tmp_path / "root", own) == 2


@pytest.mark.parametrize(("quota", "expected"), [("300000", 3.0), ("-1", None), ("junk", None)])
def test_version_1(tmp_path, quota, expected):
    own = tmp_path / "cgroup"
    own.write_text("5:memory:/box\n4:cpu,cpuacct:/box\n")
    write(tmp_path / "root" / "cpu,cpuacct" / "box", cpu_cfs_quota_us=quota, cpu_cfs_period_us="100000")
    assert cpu_quota(tmp_path / "root", own) == expected


def test_no_control_groups(tmp_path):
    assert cpu_quota(tmp_path, tmp_path / "none") is None


def test_the_quota_bounds_the_threads(tmp_path, monkeypatch):
    before = available_threads()
    write(tmp_path, cpu_max="10000 100000")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path)
    assert available_threads() == 1 <= before
