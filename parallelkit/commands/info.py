"""What a bug report needs: the machine, the numerical libraries, the versions."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from importlib import metadata

from .. import __version__
from ..options import configured
from ..place import forksafe, system
from ..place.host import default_start_method, has_gil, limit

__all__ = ["show"]

NEEDED = ("pathos", "multiprocess", "dill", "cloudpickle", "numpy", "tqdm", "threadpoolctl")
OPTIONAL = ("pandas", "pyarrow", "matplotlib", "scikit-learn", "joblib", "dask", "ray")


def show() -> None:
    """Print it."""
    for name, value in _facts():
        print(f"{name:<18} {value}")


def _facts() -> list[tuple[str, str]]:
    facts = [
        ("parallelkit", __version__),
        ("python", f"{platform.python_version()} ({platform.python_implementation()})"),
        ("interpreter lock", "yes" if has_gil() else "no: threads run side by side"),
        ("system", platform.platform()),
        ("cores", "{} to use, by {}; {} in the machine".format(*limit(), os.cpu_count())),
        ("quota", _quota()),
        ("start method", default_start_method()),
        ("fork server", _fork_server()),
        ("segments", _segments()),
        ("options set", ", ".join(f"{k}={v!r}" for k, v in configured().items()) or "none"),
    ]
    facts += [("blas, openmp", told) for told in _libraries()]
    facts += [(name, _version(name) or "MISSING") for name in NEEDED]
    facts += [(name, told) for name in OPTIONAL if (told := _version(name))]
    return facts


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _quota() -> str:
    from ..place.host import _cgroup_quota

    quota = _cgroup_quota()
    return "none" if quota is None else f"{quota:g} cores"


def _fork_server() -> str:
    """Which one a call that names no start method would get here, and why."""
    from ..backends.processes.forkserver import forced

    if (kind := forced()) is None:
        why = forksafe.why_not()
        if why is None:
            return "forked from the caller, which would be safe here"
        return f"started anew: {why}"
    told = {"forked": "forked from the caller", "new": "started anew"}[kind]
    return f"{told}: PARALLELKIT_FORK_SERVER says so"


def _segments() -> str:
    """Where large buffers lie, and how much there is."""
    if system.MEMFD:
        return f"anonymous memory (memfd), {_available()} of memory available"
    folder = tempfile.gettempdir()
    return f"files in {folder}, {_size(shutil.disk_usage(folder).free)} free"


def _available() -> str:
    try:
        with open(f"{system.PROC}/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return _size(int(line.split()[1]) * 1024)
    except (OSError, ValueError, IndexError):
        pass
    return "unknown"


def _size(nbytes: float) -> str:
    return f"{nbytes / 2**30:.1f} GiB"


def _libraries() -> list[str]:
    try:
        import numpy.linalg  # noqa: F401 - loads its library
        import threadpoolctl
    except ImportError as error:
        return [f"unknown ({error})"]
    return [
        f"{one['internal_api']} {one['version'] or ''}, {one['num_threads']} threads".replace(
            " ,", ","
        )
        for one in threadpoolctl.threadpool_info()
    ] or [f"none found in {sys.executable}"]
