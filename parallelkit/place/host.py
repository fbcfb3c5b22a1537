"""What this machine offers: cores by affinity mask and cgroup quota, and facts of the platform."""

from __future__ import annotations

import functools
import math
import os
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from . import system

__all__ = [
    "Variables",
    "cpu_count",
    "default_start_method",
    "has_gil",
    "limit",
    "memory",
    "start_methods",
    "variables",
]


def cpu_count() -> int:
    """Cores that this process may use, at least 1.

    The smallest of the affinity mask (``taskset``, ``sched_setaffinity``), the cgroup quota
    (version 1 and 2, as containers and batch systems set it; rounded up), the machine, and what
    the environment says: ``PYTHON_CPU_COUNT``, ``LOKY_MAX_CPU_COUNT`` (as it was when this process
    began), ``SLURM_CPUS_PER_TASK``, ``NCPUS`` or ``PBS_NP``, ``LSB_DJOB_NUMPROC``. The workers of
    pytest-xdist share what there is. ``python -m parallelkit info`` says which one it was.

    Returns
    -------
    int

    Examples
    --------
    >>> import parallelkit as pk
    >>> pk.cpu_count() >= 1
    True
    """
    return limit()[0]


def limit() -> tuple[int, str]:
    """Cores that this process may use, and what limits them to that."""
    cores, by = _machine()
    quota = _cgroup_quota()
    if quota is not None and math.ceil(quota) < cores:
        cores, by = math.ceil(quota), "the cgroup quota"
    seen = _limits.read()
    if seen or _loky:
        # parallelkit itself sets loky's, to a share, for what runs in it.
        for name, text in {**seen, **_loky}.items():
            if name != _XDIST and text.isdecimal() and 0 < int(text) < cores:
                cores, by = int(text), name
        sharing = seen.get(_XDIST, "")
        if sharing.isdecimal() and int(sharing) > 1:
            cores, by = cores // int(sharing), f"{by}, shared by {sharing} workers of pytest-xdist"
    return max(1, cores), by


def _machine() -> tuple[int, str]:
    """Cores of the machine, or of those that this process is bound to."""
    if system.AFFINITY:
        return len(os.sched_getaffinity(0)), "the machine or the affinity mask"
    if system.WINDOWS:
        from . import windows

        bound = windows.cores()
        if bound is not None:
            return bound, "the affinity mask"
    return os.cpu_count() or 1, "the machine"


def memory() -> int:
    """Bytes of memory that this process and its children may use; 0 where that is not known."""
    if system.WINDOWS:
        from . import windows

        return windows.memory().whole
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            text = _text(file).strip()
        except OSError:
            continue
        if text.isdecimal():
            whole = min(whole, int(text))
    return max(0, whole)


def has_gil() -> bool:
    """Whether threads of this interpreter take turns (false on a free-threaded build)."""
    enabled = getattr(sys, "_is_gil_enabled", None)  # before 3.13 there is always one
    return True if enabled is None else bool(enabled())


def start_methods() -> tuple[str, ...]:
    """Start methods of this platform, the default first."""
    if system.WINDOWS:
        return ("spawn",)
    if not system.FORKS_WELL:
        return ("spawn", "forkserver", "fork")
    return ("forkserver", "spawn", "fork")


def default_start_method() -> str:
    """Return the start method that ``start_method=None`` stands for."""
    return start_methods()[0]


class Variables:
    """Environment variables, to be read often.

    ``os.environ`` takes a microsecond for each that is not set; its dictionary does not.
    """

    _raw: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)

    def __init__(self, names: Iterable[str]) -> None:
        plain = self._raw is os.environ
        self._keys = {name: name if plain else os.environ.encodekey(name) for name in names}
        self._decode = str if plain else os.environ.decodevalue

    def read(self) -> dict[str, str]:
        """Return those that are set, by name."""
        if self._raw.keys().isdisjoint(self._keys.values()):
            return {}
        found = [(name, self._raw.get(key)) for name, key in self._keys.items()]
        return {name: self._decode(value) for name, value in found if value is not None}


def variables() -> dict[str, str]:
    """Return all environment variables, as they are at one moment.

    Another thread may set some meanwhile. The C library's own table, which a process that is
    started without a table of its own is given, is no place to read then: it moves as it grows.
    """
    there = os.environ
    raw = getattr(there, "_data", None)
    if raw is None:  # somebody's mapping in its place
        return dict(there)
    return {there.decodekey(name): there.decodevalue(value) for name, value in raw.copy().items()}


_XDIST = "PYTEST_XDIST_WORKER_COUNT"
_limits = Variables(
    ("PYTHON_CPU_COUNT", "SLURM_CPUS_PER_TASK", "NCPUS", "PBS_NP", "LSB_DJOB_NUMPROC", _XDIST)
)
_loky = Variables(("LOKY_MAX_CPU_COUNT",)).read()


@functools.cache  # read once: it takes longer than a small call
def _cgroup_quota(proc: str = "/proc/self/cgroup", root: str = "/sys/fs/cgroup") -> float | None:
    """Cores that the cgroups of this process grant, or None where nothing limits them.

    A limit may be set on any ancestor, so every group up to the root is asked. In a container
    the root of its own namespace is mounted, which the walk reaches last.
    """
    if not system.LINUX:
        return None
    try:
        lines = _text(proc).splitlines()
    except OSError:
        return None
    quotas = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":  # version 2
            mounts, read = [root, f"{root}/unified"], _quota_v2
        elif "cpu" in controllers.split(","):
            mounts, read = [f"{root}/{controllers}", f"{root}/cpu"], _quota_v1
        else:
            continue
        parts = path.strip("/").split("/")
        for mount in mounts:
            for depth in range(len(parts), -1, -1):
                quota = read("/".join([mount, *parts[:depth]]))
                if quota is not None:
                    quotas.append(quota)
    return min(quotas, default=None)


def _quota_v2(group: str) -> float | None:
    try:
        quota, period = _text(f"{group}/cpu.max").split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _quota_v1(group: str) -> float | None:
    try:
        quota = int(_text(f"{group}/cpu.cfs_quota_us"))
        period = int(_text(f"{group}/cpu.cfs_period_us"))
        return quota / period if quota > 0 else None
    except (OSError, ValueError, ZeroDivisionError):
        return None


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()
