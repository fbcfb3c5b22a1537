"""The backends and start methods on which one contract holds, as options of Pool."""

import multiprocessing

from engines import ENGINES, WANTED
from left_out import WINE

_OURS = ("forkserver", "spawn", "fork")
START_METHODS = [m for m in _OURS if m in multiprocessing.get_all_start_methods()]
PROCESSES = {f"process-{m}": {"backend": "process", "start_method": m} for m in START_METHODS}
# What is callable gives its options when it is wanted.
# Python's own executor, which stands for the engines of others, hangs in Wine.
ELSEWHERE = {name: ENGINES[name] for name in WANTED or (() if WINE else ("executor",))}
CONCURRENT = {**PROCESSES, "thread": {"backend": "thread"}, **ELSEWHERE}
BACKENDS = {**CONCURRENT, "serial": {"backend": "serial"}}
# One that pickles items and has a thread draw them, and one that does neither.
EITHER = {name: BACKENDS[name] for name in (*WANTED, next(iter(PROCESSES)), "serial")}
OTHER_START_METHODS = list(PROCESSES)[1:]  # for cases that do not depend on it
