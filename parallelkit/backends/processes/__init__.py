"""Worker processes: who decides, who listens, who starts them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from ...errors import ParallelError
from ...place.foreign import green
from ...place.host import default_start_method

if TYPE_CHECKING:
    from ...options import Options
    from ..base import Pool

__all__ = ["pool_for", "prepare", "shutdown"]


def prepare(options: Options) -> None:
    """Start a fork server, which has imports of its own to make, and import pathos meanwhile."""
    if (library := green()) is not None:
        raise ParallelError(
            f"processes do not work under the monkey patches of {library}, which replace threads "
            "and the waiting for descriptors: use backend='thread' or backend='serial'"
        )
    if (options.start_method or default_start_method()) == "forkserver":
        from . import forkserver

        forkserver.start()
    from . import pool  # noqa: F401


def pool_for(options: Options, workers: int, level: int, wished: bool) -> Pool:
    """Pool for one call."""
    from .pool import pool_for

    return pool_for(options, workers, level, wished)


def shutdown() -> None:
    """End all workers, if there are any."""
    pool = sys.modules.get(f"{__name__}.pool")
    end = getattr(pool, "shutdown", None)  # a thread may be importing it at this moment
    if end is not None:
        end()
