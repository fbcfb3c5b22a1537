"""What `multiprocessing` and `multiprocess` say of a worker: its name, its number, its parent.

Functions ask them whether they run in a worker (``parent_process() is None``, the name
``MainProcess``) and in which (``current_process()._identity``), and log records bear the name.
Neither of them has started our workers, so they are told; one that is yet to be imported, then.
"""

# ruff: noqa: SLF001 - what their own children set of themselves has no public name

from __future__ import annotations

import sys
import threading
from importlib.machinery import PathFinder
from typing import Any

__all__ = ["Parentage"]

_MODULES = "multiprocessing.process", "multiprocess.process"


class Parentage:
    """A worker's number, counted from 1, and its parent's name and id."""

    def __init__(self, number: int, parent: str, parent_pid: int) -> None:
        self._number = number
        self._parent = parent
        self._parent_pid = parent_pid

    def settle(self) -> None:
        """Tell it to modules that are there, and to those that come."""
        for name in _MODULES:
            if name in sys.modules:
                self._tell(sys.modules[name])
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002 - the protocol's
        """Find one of the modules as it would be found, and tell it when it has been run."""
        spec = PathFinder.find_spec(name, path) if name in _MODULES else None
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_tell(module: Any) -> None:
                run(module)
                self._tell(module)

            spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec

    def _tell(self, module: Any) -> None:
        process = module.current_process()
        process._name = f"parallelkit-worker-{self._number}"
        process._identity = (self._number,)
        process._parent_pid = self._parent_pid
        module._children = set()  # a forked worker has a copy of its parent's

        class Parent(module._ParentProcess):  # type: ignore[misc]
            """The parent; a worker does not outlive it."""

            def is_alive(self) -> bool:
                return True

            def join(self, timeout: float | None = None) -> None:
                threading.Event().wait(timeout)

        module._parent_process = Parent(self._parent, self._parent_pid, None)
