"""Count the processors that this process may use: its CPU affinity and the quota of its control group."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUP = Path("/proc/self/cgroup")


def available_threads() -> int:
    """Count the processors that this process may use, at least 1.

    A container often sees all processors of its host but may use only a share of their time; more threads
    than that slow each other down.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota(CGROUPS, OWN_GROUP)
    return count if quota is None else max(1, min(count, math.ceil(quota)))


def cpu_quota(root: Path, own_group: Path) -> float | None:
    """Return the CPU quota of this process' control groups, in processors; None without a limit.

    Source: Linux, ``Documentation/admin-guide/cgroup-v2.rst`` (``cpu.max``) and ``scheduler/sched-bwc.rst``
    (version 1: ``cpu.cfs_quota_us``, ``cpu.cfs_period_us``). The smallest quota of the group and its
    ancestors applies.

    Args:
        root: mount point of the control groups.
        own_group: file that names the group of this process, such as ``/proc/self/cgroup``.
    """
    quotas = [quota for folder in _groups(root, own_group) if (quota := _quota(folder)) is not None]
    return min(quotas, default=None)


def _groups(root: Path, own_group: Path) -> list[Path]:
    """List the folders of this process' groups and their ancestors, for both versions of control groups."""
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
