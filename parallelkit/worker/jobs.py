"""Windows' jobs: groups of processes that end together, and may have a limit of memory."""

from __future__ import annotations

import ctypes
from ctypes import c_size_t, c_uint32, c_uint64, c_void_p

from ..place.windows import kernel

__all__ = ["Job", "limit_memory"]

_KILL_ON_CLOSE = 0x2000
_MAY_BREAK_AWAY = 0x800  # who starts a process so means it to outlive the job
_PROCESS_MEMORY = 0x100
_EXTENDED = 9
_THIS = -1  # the handle that every process has of itself


class _Limits(ctypes.Structure):
    """JOBOBJECT_EXTENDED_LIMIT_INFORMATION."""

    _fields_ = [
        ("times", c_uint64 * 2),
        ("flags", c_uint32),
        ("sets", c_size_t * 2),
        ("active", c_uint32),
        ("affinity", c_size_t),
        ("classes", c_uint32 * 2),
        ("io", c_uint64 * 6),
        ("process_memory", c_size_t),
        ("job_memory", c_size_t),
        ("peaks", c_size_t * 2),
    ]


class Job:
    """A group of processes that ends with the last handle to it."""

    def __init__(self, memory: int = 0) -> None:
        self._kernel = kernel()
        self._kernel.CreateJobObjectW.restype = c_void_p
        self._handle = self._kernel.CreateJobObjectW(None, None)
        limits = _Limits()
        limits.flags = _PROCESS_MEMORY if memory else _KILL_ON_CLOSE | _MAY_BREAK_AWAY
        limits.process_memory = memory
        self.limited = bool(
            self._kernel.SetInformationJobObject(
                c_void_p(self._handle), _EXTENDED, ctypes.byref(limits), ctypes.sizeof(limits)
            )
        )

    def take(self, process: int = _THIS) -> bool:
        """Put a process in, by its handle; what it starts is in it too."""
        return bool(
            self._kernel.AssignProcessToJobObject(c_void_p(self._handle), c_void_p(process))
        )

    def end(self, code: int) -> None:
        """End all that is in it."""
        if self._handle:
            self._kernel.TerminateJobObject(c_void_p(self._handle), code)

    def __del__(self) -> None:
        if self._handle:
            self._kernel.CloseHandle(c_void_p(self._handle))


def limit_memory(nbytes: int) -> None:
    """Let this process have no more memory than that."""
    job = Job(nbytes)
    if not (job.limited and job.take()):
        raise OSError("memory_limit: Windows does not put this process into a job")
