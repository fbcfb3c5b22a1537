"""BLAS and OpenMP threads, held to a share of the cores (by threadpoolctl).

OpenBLAS and its kin keep one number for the process, OpenMP one for each thread that calls it.

- A worker process takes its share for good (`settle`), a helper thread before a chunk (`hold`).
- A call on threads lends out the share (`lent`). Where several do so at a time, the least counts
  for what is the process', and for what is a thread's the latest there. When the last one ends,
  all is as it was before the first, in whatever order they end.
- numba has a number for each thread too. It begins with all cores when its first parallel function
  does, so it is held right then.
- Libraries that are loaded later find the number in the environment, and joblib finds there how
  many cores it may count. From the next chunk on they are known like the others: looking costs
  next to nothing unless modules or libraries have been loaded since.
"""

from __future__ import annotations

import functools
import os
import sys
import threading
from typing import Any

from . import system
from .host import Variables, cpu_count
from .sigint import Shield

__all__ = ["VARIABLES", "hold", "lent", "limit", "look", "overrun", "settle"]

_OPENMP = "OMP_NUM_THREADS"
# These are asked by their libraries before OpenMP's; where they are not set, that counts.
_OWN = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_JOBLIB = "LOKY_MAX_CPU_COUNT"
VARIABLES = (_OPENMP, *_OWN, _JOBLIB)
_ALWAYS = (_OPENMP, _JOBLIB, *(_OWN[-1:] if system.MACOS else ()))
_set_ones = Variables(VARIABLES).read
_BOUNDS = (_OPENMP, *_OWN, "NUMBA_NUM_THREADS")
_bounds = Variables(_BOUNDS).read


def settle(threads: int, cores: int) -> None:
    """Let this process, a worker of so many cores, use `threads` threads from now on."""
    _set_environment(threads, cores)
    for library in _libraries():
        _set(library, threads)
    _of_thread().now = threads, _looked


def limit() -> int | None:
    """Return the most threads that the user's variables allow an item; None where all are.

    Not what a call that runs has put there meanwhile.
    """
    seen = _of_process.before()
    if not seen:
        return None
    numbers = [int(text) for text in seen.values() if text.isdecimal()]
    least = min((number for number in numbers if number), default=None)
    return least if least is not None and least < cpu_count() else None


def overrun() -> int | None:
    """Return :func:`limit` where a library of this process would use more threads than that.

    As one does that was loaded before the user has set it.
    """
    most = limit()
    if most is None or "numpy" not in sys.modules:
        return None
    return most if any(library.get_num_threads() > most for library in _libraries()) else None


def look() -> None:
    """Find the libraries that are loaded, so that processes forked from this one know them."""
    if "numpy" in sys.modules:
        _libraries()


def hold(threads: int) -> None:
    """Let OpenMP use `threads` threads where this thread calls it."""
    libraries, mine = _libraries(), _of_thread()
    if mine.now != (threads, _looked):
        for library in libraries:
            if library.user_api == "openmp":
                _set(library, threads)
        mine.now = threads, _looked


class lent:  # noqa: N801 - reads as the block that it is
    """Hold the process to a share within the block, and give back what was there before.

    Parameters
    ----------
    threads : int
    cores : int
        What joblib may count.
    here : bool
        Whether the thread that enters runs items itself.
    """

    def __init__(self, threads: int, cores: int, here: bool = True) -> None:
        self.threads, self.cores = threads, cores
        self._of_thread = _of_thread() if here else None

    def change(self, threads: int, cores: int) -> None:
        """Make it another share, within the block."""
        if (threads, cores) != (self.threads, self.cores):
            self.threads, self.cores = threads, cores
            with _lock:
                _of_process.changed(self, _libraries())

    def __enter__(self) -> None:
        libraries = _libraries()
        with _lock:
            _of_process.enter(self, libraries)
        if self._of_thread is not None:
            self._of_thread.enter(self, libraries)

    def __exit__(self, *_: object) -> None:
        libraries = _libraries()
        with _lock:
            _of_process.leave(self, libraries)
        if self._of_thread is not None:
            self._of_thread.leave(self, libraries)


class _OfThread:
    """What one thread holds OpenMP to."""

    def __init__(self) -> None:
        self.now: tuple[int, object] | None = None  # threads, for the libraries of that look
        self._thread = threading.get_ident()
        self._lent: dict[lent, None] = {}  # the latest last
        self._owed: tuple[dict[str, int], tuple[int, object] | None] | None = None

    def enter(self, one: lent, libraries: list[Any]) -> None:
        """Hold to the share of `one`."""
        if self._owed is None:
            self._owed = _numbers(x for x in libraries if x.user_api == "openmp"), self.now
        self._lent[one] = None
        hold(one.threads)

    def leave(self, one: lent, libraries: list[Any]) -> None:
        """Hold to what the latest of the others says, or to what was there before all."""
        self._lent.pop(one, None)
        if threading.get_ident() != self._thread:  # an iterator that another thread ends
            self.now = None
        elif self._lent:
            hold(next(reversed(self._lent)).threads)
        elif self._owed is not None:
            (before, was), self._owed, now = self._owed, None, self.now
            for library in libraries:
                number = _number_in(before, library)
                if library.user_api == "openmp" and (number, _looked) != now:
                    _set(library, number)
            self.now = was  # held to by a look that may be an old one: then the next one sets it


class _OfProcess:
    """What this process holds all other libraries, and its environment, to."""

    def __init__(self) -> None:
        self._lent: dict[lent, None] = {}
        self._now: tuple[int, int, object] | None = None
        self._before: dict[str, int] = {}
        self._environment: dict[str, str | None] = {}

    def before(self) -> dict[str, str]:
        """Variables with bounds, as they are where no share is lent."""
        if not self._lent:
            return _bounds()
        with _lock:
            saved = {**self._environment} if self._lent else {}
        saved.pop(_JOBLIB, None)
        return {**_bounds(), **{name: text or "" for name, text in saved.items()}}

    def enter(self, one: lent, libraries: list[Any]) -> None:
        """Hold to the least share of all."""
        if not self._lent:
            self._before = _numbers(x for x in libraries if x.user_api != "openmp")
            self._environment = _environment()
        self._lent[one] = None
        self._enforce(libraries)

    def changed(self, one: lent, libraries: list[Any]) -> None:
        """Hold to the least share of all, of which one has changed."""
        if one in self._lent:
            self._enforce(libraries)

    def leave(self, one: lent, libraries: list[Any]) -> None:
        """Hold to the least of the others, or to what was there before all."""
        self._lent.pop(one, None)
        if self._lent:
            self._enforce(libraries)
        elif self._now is not None:  # else a fork within the block has begun anew
            threads, self._now = self._now[0], None
            now = _set_ones()
            for name, text in self._environment.items():
                if text is None:
                    os.environ.pop(name, None)
                elif now.get(name) != text:
                    os.environ[name] = text
            for library in libraries:  # those loaded meanwhile get what they would have had
                number = _number_in(self._before, library)
                if library.user_api != "openmp" and number != threads:
                    _set(library, number)

    def _enforce(self, libraries: list[Any]) -> None:
        threads = min(one.threads for one in self._lent)
        cores = min(one.cores for one in self._lent)
        if self._now is None or self._now[:2] != (threads, cores):
            _set_environment(threads, cores)
        if (threads, cores, _looked) != self._now:
            for library in libraries:
                if library.user_api != "openmp" and library.get_num_threads() != threads:
                    _set(library, threads)
            self._now = threads, cores, _looked


def _set(library: Any, threads: int) -> None:
    """Set a library's number, whichever thread has set it last.

    threadpoolctl (seen in 3.8) lets one thread at a time control OpenBLAS, and what others say
    counts for nothing. Here a lock and the count of calls see to it that they do not fight; so
    control is taken and given back at once, and is there for the user's own threads.
    """
    take = getattr(library, "clear_controlling_thread", None)
    if take is not None:
        take(force=True)
    library.set_num_threads(threads)
    if take is not None:
        take()


def _numbers(libraries: Any) -> dict[str, int]:
    return {library.filepath: library.get_num_threads() for library in libraries}


def _number_in(numbers: dict[str, int], library: Any) -> int:
    """Threads of a library; one that has come since takes what nobody has told it."""
    if library.filepath in numbers:
        return numbers[library.filepath]
    text = os.environ.get(_OPENMP, "")
    return int(text) if text.isdecimal() else cpu_count()


def _environment() -> dict[str, str | None]:
    """Variables that are held to a share, with their values: those that must be, or are set."""
    return {**dict.fromkeys(_ALWAYS), **_set_ones()}


def _set_environment(threads: int, cores: int) -> None:
    for name, text in _environment().items():
        wanted = str(cores if name == _JOBLIB else threads)
        if text != wanted:
            os.environ[name] = wanted


# --- which libraries there are ------------------------------------------------------------------

_controllers: list[Any] = []
_looked: object = None  # how many modules and libraries had been loaded at the last look
_loads = 0  # libraries by ctypes, which no module tells of


def _libraries() -> list[Any]:
    """Controllers of the numerical libraries that this process has loaded."""
    global _controllers, _looked
    now = len(sys.modules), _loads
    if now != _looked:
        with _lock:
            if _looked is None:
                sys.addaudithook(_on_event)
            with Shield():  # a signal handler that makes a call would find a module half made
                import threadpoolctl

            modules = len(sys.modules)
            _controllers = _controller(threadpoolctl).lib_controllers
            if _Numba.MODULE in sys.modules:
                numba = _Numba(sys.modules[_Numba.MODULE])
                if numba.started():
                    _controllers.append(numba)
                else:
                    numba.hold_when_it_starts()
            _looked = modules, _loads  # it opens what is loaded already, which is no news
    return _controllers


def _controller(threadpoolctl: Any) -> Any:
    """Look through what is loaded, but for compiled modules of Python.

    Those are no numerical libraries, and are many: to follow the path of each for links, as
    threadpoolctl does (3.6), takes longer than all the rest.
    """

    class Controller(threadpoolctl.ThreadpoolController):  # type: ignore[misc]
        def _make_controller_from_path(self, path: str, *more: Any) -> None:
            if ".cpython-" not in path and ".abi3." not in path:
                super()._make_controller_from_path(path, *more)

    return Controller()


class _Numba:
    """A controller, as those of threadpoolctl are, of the threads that numba starts."""

    MODULE = "numba.np.ufunc.parallel"
    filepath = "numba"
    user_api = "openmp"  # as there, each thread of a program has a number of its own

    def __init__(self, module: Any) -> None:
        self._module = module

    def started(self) -> bool:
        return bool(getattr(self._module, "_is_initialized", True))

    def hold_when_it_starts(self) -> None:
        """Hold the thread that starts them to its share; asking numba for it would start them."""
        start = self._module._launch_threads  # noqa: SLF001 - and nothing else tells of it
        if hasattr(start, "__wrapped__"):
            return

        @functools.wraps(start)  # functions that numba has cached know it by its name
        def held() -> None:
            start_them = not self.started()
            start()
            now = _of_thread().now
            if start_them and now is not None:
                self.set_num_threads(now[0])

        self._module._launch_threads = held  # noqa: SLF001 - as above

    def get_num_threads(self) -> int:
        return int(self._module.get_num_threads())

    def set_num_threads(self, threads: int) -> None:
        self._module.set_num_threads(max(1, min(threads, self._module.NUM_THREADS)))


def _on_event(event: str, arguments: tuple[Any, ...]) -> None:
    global _loads
    if event == "ctypes.dlopen" and arguments[0] is not None:  # that would be this process itself
        _loads += 1


_lock = threading.RLock()
_of_process = _OfProcess()
_local = threading.local()


def _of_thread() -> _OfThread:
    try:
        mine: _OfThread = _local.mine
    except AttributeError:
        mine = _local.mine = _OfThread()
    return mine


def _after_fork() -> None:
    """In a forked child: the calls are the parent's. What they hold to stays, as in a worker."""
    global _lock, _of_process, _local
    _lock, _of_process, _local = threading.RLock(), _OfProcess(), threading.local()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
