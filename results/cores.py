"""How many processor cores this process may use: what the scheduler allows, and what a container's quota pays for."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """At least 1: the cores of the affinity mask (all of them where there is none: macOS), or fewer under a cgroup's quota."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, math.ceil(quota)))


def cpu_quota() -> float | None:
    """CPUs that control groups grant this process, such as 2.5; None where nothing limits it.

    Version 2: `cpu.max` of its group and of every group above. Version 1: `cpu.cfs_quota_us` over `cpu.cfs_period_us`.
    """
    try:
        lines = [line.split(":", 2) for line in _OWN.read_text().splitlines()]
    except OSError:
        return None
    quotas = []
    for _, controllers, path in (line for line in lines if len(line) == 3):
        if controllers and "cpu" not in controllers.split(","):
            continue
        base = _CGROUPS if not controllers else _CGROUPS / "cpu"
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            limit = _limit(group)
            if limit is not None:
                quotas.append(limit)
            if group == base:
                break
    return min(quotas, default=None)


def _limit(group: Path) -> float | None:
    try:
        if (group / "cpu.max").exists():
            quota, period = (group / "cpu.max").read_text().split()
        else:
            quota, period = ((group / f"cpu.cfs_{name}_us").read_text().strip() for name in ("quota", "period"))
        return None if quota == "max" or int(quota) <= 0 or int(period) <= 0 else int(quota) / int(period)
    except (OSError, ValueError):
        return None
