"""Worker processes: who decides, who listens, who starts them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from ...errors import ParallelError
from ...place import importing
from ...place.foreign import green
from ...place.host import default_start_method
from ...place.nesting import nesting

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from ...options import Options

__all__ = ["prepare", "shutdown"]

MOST_STOCK = 16  # workers that are asked for before a pool wants them


def prepare(options: Options, func: Callable[..., Any] | None) -> ModuleType:
    """Start a fork server, and import what calls need: meanwhile, if it is a new process."""
    if (library := green()) is not None:
        raise ParallelError(
            f"processes do not work under the monkey patches of {library}, which replace threads "
            "and the waiting for descriptors: use backend='thread' or backend='serial'"
        )
    if (options.start_method or default_start_method()) == "forkserver":
        from . import forkserver

        method = options.start_method or forkserver.DEFAULT
        safe = forkserver.is_copy(method)
        if safe:
            # It shares what is there before it is made; and what is looked at later is copied.
            with importing.for_ourselves():
                from ...transport.script import script
                from . import pool

                script.count_modules()
        # They start while this process imports; that they are so many is a guess.
        wished = options.workers or nesting().cores
        stock = min(wished, MOST_STOCK) if wished > 0 and not options.initargs else 0
        preload = forkserver.Preload(options.preload, func)
        forkserver.start(method, stock, preload, safe=safe)
    with importing.for_ourselves():
        from . import pool

    return pool


def shutdown() -> None:
    """End all workers, if there are any."""
    pool = sys.modules.get(f"{__name__}.pool")
    end = getattr(pool, "shutdown", None)  # a thread may be importing it at this moment
    if end is not None:
        end()
