"""The threads of calls that nobody waits for: submitted calls, `amap`, jobs, asyncio.

Each runs in a copy of the context of who began it. What it gives, and what ends it, it hands to
whoever asks for the results; nothing is raised in it. None of them keeps Python from ending: the
results of an executor are waited for by that, as `concurrent.futures` promises, and what else runs
ends with the workers.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable

from ..place import limits

__all__ = ["begin"]


def begin(
    name: str, work: Callable[[], object], context: contextvars.Context | None = None
) -> threading.Thread:
    """Run `work` in a thread, in a `context` or a copy of this one; return the thread.

    Raises
    ------
    ParallelError
        If no thread can be started.
    """
    run = (contextvars.copy_context() if context is None else context).run
    thread = threading.Thread(target=run, args=(work,), name=f"parallelkit-{name}", daemon=True)
    limits.start(thread)
    return thread
