"""What `multiprocessing` and `multiprocess` say of a worker: its name, its number, its parent.

Functions ask them whether they run in a worker (``parent_process() is None``, the name
``MainProcess``) and in which (``current_process()._identity``), and log records bear the name.
Most of our workers they have not started, so they are told; one that is yet to be imported, then.
"""

# ruff: noqa: SLF001 - what their own children set of themselves has no public name

from __future__ import annotations

import itertools
import os
import sys
import threading
from functools import cached_property
from importlib.machinery import PathFinder
from typing import Any

from ..place import system

__all__ = ["Parentage", "own_name"]

_MODULES = "multiprocessing.process", "multiprocess.process"


def own_name() -> str:
    """Name of this process, as `multiprocessing` tells it to who has imported it."""
    module = sys.modules.get("multiprocessing.process")
    ask = getattr(module, "current_process", None)  # another thread may be importing it
    return "MainProcess" if ask is None else str(ask().name)


class Parentage:
    """A worker's number, counted from 1, and its parent's name and id."""

    def __init__(self, number: int, parent: str, parent_pid: int) -> None:
        self._number = number
        self._parent = parent
        self._parent_pid = parent_pid
        self._pid = os.getpid()

    def settle(self) -> None:
        """Tell it to modules that are there, and to those that come."""
        for name in _MODULES:
            if name in sys.modules:
                self._tell(sys.modules[name])
        sys.meta_path.insert(0, self)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002 - the protocol's
        """Find one of the modules, in a file or an archive, and tell it when it has been run."""
        if name not in _MODULES or os.getpid() != self._pid:  # a child of ours is another's
            return None
        spec = PathFinder.find_spec(name, path)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_tell(module: Any) -> None:
                run(module)
                if module.__name__ == name:  # an archive has one loader for all
                    self._tell(module)

            spec.loader.exec_module = run_and_tell  # type: ignore[method-assign]
        return spec

    def _tell(self, module: Any) -> None:
        process = module.current_process()
        process._name = f"parallelkit-worker-{self._number}"
        process._identity = (self._number,)
        process._parent_pid = self._parent_pid
        # A forked worker has copies of its parent's.
        module._children = set()
        module._process_counter = itertools.count(1)

        class Parent(module._ParentProcess):  # type: ignore[misc]
            """The parent; a worker does not outlive it."""

            @cached_property
            def sentinel(self) -> int:
                # A pipe that nobody closes says as much: the worker does not see its parent's end.
                return os.pidfd_open(self.pid) if system.PIDFD else os.pipe()[0]

            def is_alive(self) -> bool:
                return True

            def join(self, timeout: float | None = None) -> None:
                threading.Event().wait(timeout)

        module._parent_process = Parent(self._parent, self._parent_pid, None)
