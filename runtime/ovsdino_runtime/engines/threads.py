"""How many processors a process may use: its affinity, and the quota of its control group."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def available_threads() -> int:
    """Count the processors that this process may use, at least 1.

    A container often sees all processors of its host and may use a share of their time: more threads than
    that wait for each other.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(CGROUPS, OWN_GROUP)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cpu_quota(root: Path, own_group: Path) -> float | None:
    """Return how many processors' time the control groups of this process grant; None: no limit.

    Source: Linux, ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``) and ``scheduler/sched-bwc.rst``
    (version 1: ``cpu.cfs_quota_us``, ``cpu.cfs_period_us``). The least of all groups above counts.

    Args:
        root: where the control groups are mounted.
        own_group: names the group of this process, as ``/proc/self/cgroup`` does.
    """
    quotas = [quota for folder in _groups(root, own_group) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path, own_group: Path) -> list[Path]:
    """List the folders of this process' groups and of those above, in both versions' places."""
    folders = [root, root / "cpu", root / "cpu,cpuacct"]  # a container's own group is often mounted here
    try:
        lines = own_group.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return folders
    for line in lines:
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = root / controllers if controllers else root
        parts = [part for part in path.split("/") if part not in ("", "..")]
        folders += [base.joinpath(*parts[: count + 1]) for count in range(len(parts))]
    return folders


def _quota(folder: Path) -> float | None:
    try:
        if (folder / "cpu.max").is_file():
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()[:2]
        else:
            quota = (folder / "cpu.cfs_quota_us").read_text(encoding="ascii").strip()
            period = (folder / "cpu.cfs_period_us").read_text(encoding="ascii").strip()
        granted = float(quota) / float(period)  # "max" is no number: no limit
    except (OSError, ValueError, ZeroDivisionError):
        return None
    return granted if granted > 0 else None  # -1: no limit
