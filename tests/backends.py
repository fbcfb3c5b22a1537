"""The backends and start methods on which one contract holds, as options of Pool."""

import multiprocessing

START_METHODS = [
    m for m in ("forkserver", "spawn", "fork") if m in multiprocessing.get_all_start_methods()
]
PROCESSES = {f"process-{m}": {"backend": "process", "start_method": m} for m in START_METHODS}
CONCURRENT = {**PROCESSES, "thread": {"backend": "thread"}}
BACKENDS = {**CONCURRENT, "serial": {"backend": "serial"}}
OTHER_START_METHODS = list(PROCESSES)[1:]  # for cases that do not depend on it
