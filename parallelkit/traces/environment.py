"""``PARALLELKIT_TRACE=run.json``: the whole process is traced."""

from __future__ import annotations

import atexit
import importlib
import os

from .trace import trace

__all__ = ["VARIABLE", "begin"]

VARIABLE = "PARALLELKIT_TRACE"


def begin() -> None:
    """Begin a trace that ends with the process.

    The variable is taken out of the environment: it is meant for this process, and programs that
    it starts would write the same file.
    """
    path = os.environ.pop(VARIABLE)
    if not path:
        return
    whole = trace(path)
    # Python forgets that it ends by Ctrl-C where a dataclass is made at its end.
    importlib.import_module(f"{__package__}.{'page' if path.endswith('.html') else 'summary'}")
    try:
        whole.__enter__()
    except OSError as error:
        error.add_note(f"{VARIABLE} names that file")
        raise
    atexit.register(whole.__exit__, None, None, None)
