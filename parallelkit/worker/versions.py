"""Which client an order comes from, and what caller and worker must have in common."""

from __future__ import annotations

import importlib.metadata
import os
import socket
import sys
from typing import Any

__all__ = ["difference", "head", "identity", "made_with", "own_version"]

# Of `remote.Order` and of what `remote.run` takes and gives: raised when one of them changes.
VERSION = 3

_identity = 0, ""


def identity() -> str:
    """What this process is called as a client: another one after a fork."""
    global _identity
    if _identity[0] != os.getpid():
        name = f"{socket.gethostname()}-{os.getpid()}-{os.urandom(6).hex()}"
        _identity = os.getpid(), name
    return _identity[1]


def head() -> tuple[Any, ...]:
    """What goes before all else: whose order it is, and what it was made with."""
    return identity(), *made_with()


def own_version() -> str:
    """Version of this package."""
    return str(sys.modules["parallelkit"].__version__)  # which nothing down here may import


_versions: tuple[tuple[str, str], ...] = ()


def made_with() -> tuple[tuple[str, str], ...]:
    """Versions that caller and worker must have in common."""
    global _versions
    if not _versions:
        cloudpickle = ".".join(importlib.metadata.version("cloudpickle").split(".")[:2])
        _versions = (
            ("Python", "{}.{}".format(*sys.version_info)),
            ("parallelkit", own_version()),
            ("cloudpickle", cloudpickle),
            ("the cluster protocol of parallelkit", str(VERSION)),
        )
    return _versions


def difference(theirs: tuple[tuple[str, str], ...]) -> str:
    """What is of another version here; empty if nothing is."""
    for (name, version), (_, mine) in zip(theirs, made_with(), strict=False):
        if version != mine:
            return f"{name} {mine}, while the caller has {version}"
    return ""
