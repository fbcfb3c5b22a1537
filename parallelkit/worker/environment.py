"""What functions find around them: folder, import path, environment, log levels, filters, key.

A worker that is kept warm was started under other surroundings than a later call's; it is told
what has changed, so that the call runs as in a worker started just for it.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import PathFinder
from typing import Any, NamedTuple

from ..place import blas
from . import output as telling
from . import printing

__all__ = ["StandardFinder", "Surroundings", "current"]

_raw_environment: Mapping[Any, Any] = getattr(os.environ, "_data", os.environ)


# How many threads numerical libraries may use is set in each worker by its share.
_NOT_SHARED = tuple(
    name if _raw_environment is os.environ else os.environ.encodekey(name)
    for name in blas.VARIABLES
)


class Surroundings(NamedTuple):
    """Working directory (None where it has been removed), ``sys.path``, and so on."""

    folder: str | None
    path: list[str]
    environment: dict[Any, Any]
    log_levels: dict[str, int]
    warning_filters: list[telling.Filter]
    printing: tuple[bool, ...]  # whether stdout, and stderr, go by way of the parent
    key: bytes | None  # of the processes of `multiprocessing`

    def enter(self) -> None:
        """Make them those of this process."""
        if self.path != sys.path:
            sys.path[:] = self.path
            importlib.invalidate_caches()
        for name in _raw_environment.keys() - self.environment.keys() - set(_NOT_SHARED):
            del os.environ[_text(name)]
        for name, value in self.environment.items():
            if _raw_environment.get(name) != value:
                os.environ[_text(name)] = _text(value)
        telling.set_levels(self.log_levels)
        telling.set_filters(self.warning_filters)
        printing.set_by_parent(self.printing)
        if self.key is not None:  # with it the proxies of a multiprocessing.Manager can connect
            import multiprocessing

            multiprocessing.current_process().authkey = self.key
        if self.folder is not None:
            try:
                os.chdir(self.folder)
            except OSError:
                pass  # removed meanwhile; the function will tell if it needs it


class StandardFinder:
    """Finds those modules in the standard library that the parent has from there.

    A file of the user's that is called like one hides it in the worker only if it does so in the
    parent, where it may have come too late.
    """

    def __init__(self, names: Sequence[str], path: list[str]) -> None:
        self._names = frozenset(names)
        self._path = path  # in an interpreter of its own it begins with the standard library

    def find_spec(self, name: str, path: object = None, target: object = None) -> Any:  # noqa: ARG002 - the protocol's
        """Find a module, or leave it to the next finder."""
        return PathFinder.find_spec(name, self._path) if name in self._names else None


def current() -> Surroundings:
    """Those of this process, now."""
    try:
        folder = os.getcwd()
    except OSError:
        folder = None
    environment = dict(_raw_environment)
    for name in _NOT_SHARED:
        environment.pop(name, None)
    standard = sys.modules.get("multiprocessing")  # a Manager has imported it
    return Surroundings(
        *(folder, list(sys.path), environment),
        *(telling.levels(), telling.filters(), printing.by_parent()),
        bytes(standard.current_process().authkey) if standard is not None else None,
    )


def _text(raw: Any) -> str:
    return os.fsdecode(raw)
