"""The few things of psutil that the tests' checks need, for a Windows Python in which it does not load (Wine).

Processes are listed by the system's snapshot of them. A process has no command line and no figures here: tests that
ask for those fail with an AttributeError and are left out by tests/windows/run.
"""

import contextlib
import ctypes
import os
from ctypes import wintypes

STATUS_ZOMBIE = "zombie"  # no process is one on Windows


class Error(Exception):
    pass


class NoSuchProcess(Error):
    pass


class AccessDenied(Error):
    pass


class Process:
    def __init__(self, pid=None):
        self.pid = os.getpid() if pid is None else pid
        if not pid_exists(self.pid):
            raise NoSuchProcess(f"there is no process {self.pid}")

    def __repr__(self):
        return f"Process({self.pid})"

    def __eq__(self, other):
        return isinstance(other, Process) and other.pid == self.pid

    def __hash__(self):
        return hash(self.pid)

    def children(self, recursive=False):
        parents = _parents()
        found, wanted = [], {self.pid}
        while wanted:
            wanted = {pid for pid, parent in parents.items() if parent in wanted and pid != parent}
            wanted -= set(found)
            found += sorted(wanted)
            if not recursive:
                break
        return [child for child in map(_known, found) if child is not None]

    def cmdline(self):
        return []

    def environ(self):
        return {}

    def _entry(self):
        for entry in _entries():
            if entry.pid == self.pid:
                return entry
        raise NoSuchProcess(f"there is no process {self.pid}")

    def name(self):
        return self._entry().name

    def num_threads(self):
        return self._entry().threads

    def num_handles(self):
        count = wintypes.DWORD()
        with _handle(self.pid) as handle:
            ctypes.windll.kernel32.GetProcessHandleCount(handle, ctypes.byref(count))
        return count.value

    def status(self):
        return "running"

    def memory_info(self):
        figures = _Memory(size=ctypes.sizeof(_Memory))
        with _handle(self.pid) as handle:
            ctypes.windll.kernel32.K32GetProcessMemoryInfo(
                handle, ctypes.byref(figures), figures.size
            )
        return figures


@contextlib.contextmanager
def _handle(pid):
    query = 0x1000
    handle = ctypes.windll.kernel32.OpenProcess(query, False, pid)
    yield handle
    ctypes.windll.kernel32.CloseHandle(handle)


def pid_exists(pid):
    return pid in _parents()


def process_iter():
    return iter([process for process in map(_known, _parents()) if process is not None])


def _known(pid):
    try:
        return Process(pid)
    except NoSuchProcess:
        return None


class _Memory(ctypes.Structure):
    _fields_ = [
        ("size", wintypes.DWORD),
        ("faults", wintypes.DWORD),
        ("peak", ctypes.c_size_t),
        ("rss", ctypes.c_size_t),
        ("others", ctypes.c_size_t * 6),
    ]


class _Entry(ctypes.Structure):
    _fields_ = [
        ("size", wintypes.DWORD),
        ("usage", wintypes.DWORD),
        ("pid", wintypes.DWORD),
        ("heap", ctypes.c_size_t),
        ("module", wintypes.DWORD),
        ("threads", wintypes.DWORD),
        ("parent", wintypes.DWORD),
        ("priority", wintypes.LONG),
        ("flags", wintypes.DWORD),
        ("name", wintypes.WCHAR * 260),
    ]


def _parents():
    """The parent of each process, by process id."""
    return {entry.pid: entry.parent for entry in _entries()}


def _entries():
    system = ctypes.WinDLL("kernel32", use_last_error=True)
    system.CreateToolhelp32Snapshot.restype = wintypes.HANDLE
    for function in (system.Process32FirstW, system.Process32NextW):
        function.argtypes = [wintypes.HANDLE, ctypes.POINTER(_Entry)]
    snapshot = wintypes.HANDLE(system.CreateToolhelp32Snapshot(2, 0))
    try:
        entry, found = _Entry(size=ctypes.sizeof(_Entry)), []
        more = system.Process32FirstW(snapshot, entry)
        while more:
            found.append(_Entry.from_buffer_copy(entry))
            more = system.Process32NextW(snapshot, entry)
        return found
    finally:
        system.CloseHandle(snapshot)
