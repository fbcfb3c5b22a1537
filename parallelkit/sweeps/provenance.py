"""Where the rows of a store come from: values, host, versions, commit, command."""

from __future__ import annotations

import datetime as dt
import inspect
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from .identity import value_digest
from .values import short

__all__ = ["Commit", "about", "lines"]

SHORT = 200  # characters of a frozen value that is told as it is
PATIENCE = 5.0  # seconds for git
PACKAGES = ("numpy",)  # told where they are loaded, whether the function names them or not


def about(
    frozen: Mapping[str, Any], packages: list[str], options: Mapping[str, Any]
) -> dict[str, Any]:
    """What a run tells of itself, as JSON has it.

    Parameters
    ----------
    frozen : Mapping
        Frozen keywords: short ones are told as text, long ones by a summary and a digest.
    packages : list of str
        Installed packages that the function uses, as they are imported.
    options : Mapping
        More of the kind, such as the seed.
    """
    return {
        "started": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "host": socket.gethostname(),
        "folder": os.getcwd(),
        "command": _command(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: version for name in _used(packages) if (version := _version(name))},
        "frozen": {name: _frozen(value) for name, value in frozen.items()},
        **options,
        "git": None,
    }


def _command() -> list[str]:
    argv = list(getattr(sys, "orig_argv", sys.argv))
    return [one if len(one) <= SHORT else one[: SHORT - 1] + "…" for one in argv]


def _used(packages: list[str]) -> list[str]:
    return sorted({*packages, *(name for name in PACKAGES if name in sys.modules), "parallelkit"})


def _version(package: str) -> str | None:
    found = getattr(sys.modules.get(package), "__version__", None)
    if isinstance(found, str):
        return found
    from importlib import metadata

    for name in (package, _DISTRIBUTIONS.get(package, package)):
        try:
            return metadata.version(name)
        except (metadata.PackageNotFoundError, ValueError):
            continue
    return None


_DISTRIBUTIONS = {
    "sklearn": "scikit-learn",
    "PIL": "pillow",
    "cv2": "opencv-python",
    "yaml": "PyYAML",
}


def _frozen(value: Any) -> str:
    """A frozen value: all of it, or what it is and a digest."""
    kind = type(value)
    if getattr(value, "shape", None) and hasattr(value, "dtype"):
        shape = "×".join(map(str, value.shape))
        return f"array {value.dtype} {shape} #{value_digest(value)}"
    if hasattr(value, "shape") and hasattr(value, "columns"):
        return f"{kind.__name__} {'×'.join(map(str, value.shape))} #{value_digest(value)}"
    if isinstance(value, (str, bytes, list, tuple, dict, set, frozenset)) and len(value) > SHORT:
        return f"{kind.__name__} of {len(value)} #{value_digest(value)}"
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a user's __repr__ may raise anything
        return f"{kind.__qualname__} #{value_digest(value)}"
    return text if len(text) <= SHORT else f"{short(value)} #{value_digest(value)}"


class Commit:
    """The commit of the function's source, found out beside the sweep, as git takes its time.

    Parameters
    ----------
    func : callable
    """

    def __init__(self, func: Callable[..., Any]) -> None:
        self._folder = _folder(func)
        self._found: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        if _in_git(self._folder):
            self._thread = threading.Thread(target=self._look, name="parallelkit-git", daemon=True)
            self._thread.start()

    def __call__(self) -> dict[str, Any]:
        """Return what was found, as part of :func:`about`."""
        if self._thread is not None:
            self._thread.join(2 * PATIENCE)
        return {"git": self._found}

    def _look(self) -> None:
        """Ask git for the commit, and whether tracked files were changed since."""
        command = ["git", "--no-optional-locks", "-C", self._folder, "status"]
        command += ["--porcelain=v2", "--branch", "--untracked-files=no"]
        try:
            ran = subprocess.run(  # noqa: S603 - of words of ours, and a folder as one of them
                command,
                check=False,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                text=True,
                errors="replace",
                timeout=PATIENCE,
            )
        except (OSError, subprocess.SubprocessError, RuntimeError):  # RuntimeError: at the exit
            return
        told = ran.stdout.splitlines()
        head = dict(line[2:].split(" ", 1) for line in told if line.startswith("# branch."))
        commit = head.get("branch.oid", "(initial)")
        if ran.returncode == 0 and commit != "(initial)":
            dirty = any(not line.startswith("#") for line in told)
            self._found = {
                "commit": commit,
                "branch": head.get("branch.head"),
                "dirty": dirty,
            }


def _folder(func: Any) -> str:
    """Folder of the source of a function, else the current one."""
    inner = inspect.unwrap(getattr(func, "func", func))
    code = getattr(inner, "__code__", None)
    path = getattr(code, "co_filename", "")
    if not os.path.exists(path):
        module = sys.modules.get(getattr(inner, "__module__", None) or type(inner).__module__)
        path = getattr(module, "__file__", None) or ""
    return os.path.dirname(os.path.abspath(path)) if path and os.path.exists(path) else os.getcwd()


def _in_git(folder: str) -> bool:
    """Whether a folder, or one above it, is a clone."""
    while not os.path.exists(os.path.join(folder, ".git")):
        above = os.path.dirname(folder)
        if above == folder:
            return False
        folder = above
    return True


def lines(runs: list[dict[str, Any]]) -> list[str]:
    """Provenance to be printed, run by run."""
    told = []
    for run in runs:
        version = "" if run.get("version") is None else f" version {run['version']}"
        told.append(f"{run['function']}{version}, code {run.get('code')}: {run['rows']} rows")
        for name, value in run.items():
            if name in ("function", "version", "code", "rows") or value in (None, {}, []):
                continue
            told.append(f"  {name}: {_line(name, value)}")
    return told


def _line(name: str, value: Any) -> str:
    if name == "git" and isinstance(value, dict):
        dirty = ", with changes that are not committed" if value.get("dirty") else ""
        return f"{value.get('commit')} ({value.get('branch')}){dirty}"
    if isinstance(value, dict):
        return ", ".join(f"{one}={told}" for one, told in value.items())
    if isinstance(value, list):
        return " ".join(map(str, value))
    return str(value)
