"""What cannot be sent to workers, but be inherited: locks and queues of `multiprocessing`.

Those that its ``fork`` context has made, the default on Linux, have no name that another process
could find them by. Workers that are forked from the caller have them all the same, by its memory.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from typing import Any

from ..errors import StaysHere
from ..transport import pickling

__all__ = ["Inherited", "only_inherited"]

_keys = itertools.count()
_kept: weakref.WeakValueDictionary[int, Inherited] = weakref.WeakValueDictionary()


class Inherited:
    """Arguments that a forked worker takes from the memory of its caller; kept by who forks it.

    Parameters
    ----------
    args : tuple
    """

    def __init__(self, args: tuple[Any, ...]) -> None:
        self.args = args
        self._key = next(_keys)
        _kept[self._key] = self

    def __reduce__(self) -> Any:
        return _args, (self._key,)


def _args(key: int) -> tuple[Any, ...]:
    """In a worker: the arguments, fit for use in a forked process."""
    for name in ("multiprocessing.util", "multiprocess.util"):
        if name in sys.modules:
            sys.modules[name]._run_after_forkers()  # noqa: SLF001 - forks of its own do it
    return _kept[key].args


def only_inherited(args: tuple[Any, ...]) -> bool:
    """Whether something in `args` says that it can only be inherited."""
    if not any(name in sys.modules for name in _SYNCHRONIZED):
        return False
    try:
        pickling.dumps(args)
    except (RuntimeError, StaysHere) as error:
        return "inheritance" in str(error)
    except Exception:  # noqa: BLE001 - a user's __reduce__ may raise anything; told elsewhere
        pass
    return False


_SYNCHRONIZED = [
    f"{package}.{module}"
    for package in ("multiprocessing", "multiprocess")
    for module in ("synchronize", "sharedctypes", "queues", "heap", "connection")
]
