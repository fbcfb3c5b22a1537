"""How much memory processes use."""

import os


def resident():
    """Memory of this process now, in bytes."""
    import psutil

    return psutil.Process().memory_info().rss


def of_caller():
    return pss(os.getpid())


def of_workers():
    """Bytes of all that descends from this process."""
    import psutil

    return sum(pss(child.pid) for child in psutil.Process().children(recursive=True))


def pss(pid):
    """Proportional set size of a process in bytes; its unique set size where there is no such figure."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as lines:
            return 1024 * int(next(line for line in lines if line.startswith("Pss:")).split()[1])
    except (FileNotFoundError, ProcessLookupError, PermissionError, StopIteration):
        import psutil

        try:
            return psutil.Process(pid).memory_full_info().uss
        except psutil.Error:
            return 0
