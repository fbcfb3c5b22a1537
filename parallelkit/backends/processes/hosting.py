"""Who starts, replaces and ends the workers of a set: pathos, which is imported when it is needed.

::

    start_method    the first workers are started by
    None, forkserver  `EarlyHost`, by the fork server; pathos takes them over when one has ended,
                      or when the caller has to wait anyway. On Windows spawned ones likewise.
    spawn, fork       pathos, at once

To import pathos, multiprocess and dill takes as long as all the rest of a first call, and what it
is for, to put another worker in the place of one that has ended, is wanted late or never.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING, Any

from ...place import importing, limits
from ...place.sigint import Shield
from ...worker.ending import PATIENCE
from . import family
from .forked import OnFailure, OnStart

if TYPE_CHECKING:
    from .forked import Forked
    from .pathos_host import Host

__all__ = ["EarlyHost", "host_of"]

log = logging.getLogger("parallelkit")


class EarlyHost:
    """Starts workers by a fork server, and hands them over to pathos later.

    Parameters
    ----------
    workers : int
    server : str
        Start method of the fork server.
    on_start, on_failure : callable
        See `pathos_host.Host`.
    """

    def __init__(self, workers: int, server: str, on_start: OnStart, on_failure: OnFailure) -> None:
        self._arguments = workers, server, on_start, on_failure
        self._pid = os.getpid()
        self._host: Host | None = None
        self._handing_over = threading.RLock()
        self._replaces = False  # whether a thread is about to hand them over
        self._closed = self._tried = False
        self._deadline = 0.0  # for workers to have ended
        self._started: list[Forked] = []
        for _ in range(workers):
            forked = family.started(server)
            self._started.append(forked)
            on_start(forked, forked.ours)

    @property
    def is_early(self) -> bool:
        """Whether pathos has yet to take over, and has not been tried in vain."""
        return self._host is None and not (self._closed or self._tried)

    def hand_over_if_possible(self) -> None:
        """Have pathos look after the workers from now on, unless means are short."""
        try:
            self.hand_over()
        except (OSError, RuntimeError, MemoryError) as error:  # Python may be ending
            self._tried = True
            log.debug("pathos could not take over the workers: %s", error)

    def hand_over(self) -> None:
        """Have pathos look after the workers from now on."""
        with self._handing_over:
            if self._host is not None or self._closed or os.getpid() != self._pid:
                return
            # Ctrl-C half-way through: dill and pathos would take it for a module that is missing,
            # and leave a pool that is half made.
            with Shield():
                with importing.lock, importing.uncollected(), importing.for_ourselves():
                    from .pathos_host import Host

                    importing.at_exit()  # before what pathos has registered just now
                if not self._closed:  # meanwhile
                    self._host = Host(*self._arguments, self._started)

    def replace(self) -> None:
        """See to it that another worker comes for one that has ended. Does not wait."""
        if self._host is not None or self._closed or self._replaces:
            return  # pathos does
        self._replaces = True
        try:
            threading.Thread(target=self._replace, name="parallelkit-pathos", daemon=True).start()
        except RuntimeError as error:
            self._arguments[-1](error)

    def _replace(self) -> None:
        try:
            self.hand_over()
        except BaseException as error:  # noqa: BLE001 - told to all calls
            self._arguments[-1](limits.explained(error))

    def replace_no_more(self) -> None:
        """Let workers end without others that come in their place."""
        self._deadline = time.monotonic() + PATIENCE + 0.2
        if self._host is not None:
            self._host.replace_no_more()

    def close(self) -> None:
        """End all processes, and start no more."""
        if os.getpid() != self._pid:
            return
        with self._handing_over:
            early, self._closed = self._host is None and not self._closed, True
        if self._host is not None:
            self._host.close()
        if not early:
            return
        for forked in self._started:
            if forked.wait(max(0.0, self._deadline - time.monotonic())) is None:
                forked.kill()
        for forked in self._started:
            forked.wait()

    def lose(self, processes: list[Any]) -> None:
        """End the processes; touch no descriptor, for they are somebody else's."""
        self._closed = True
        with self._handing_over:  # a host that is being made has processes, too
            host = self._host
        if host is not None:
            host.lose(processes)
        else:
            for process in processes:
                process.lose()

    def disown(self, processes: list[Any]) -> None:
        """In a forked child: see to it that its end does not end the parent's workers."""
        self._closed = True
        if self._host is not None:
            self._host.disown(processes)


def host_of(
    workers: int, start_method: str, on_start: OnStart, on_failure: OnFailure
) -> EarlyHost | Host:
    """Start workers; return what replaces and ends them.

    Parameters
    ----------
    workers : int
    start_method : str
    on_start : callable
        Called with each new process and our end of its socket, also for replacements, which
        pathos starts in a thread of its own.
    on_failure : callable
        Called with the error where a replacement cannot be started.
    """
    if start_method in family.EARLY:
        return EarlyHost(workers, start_method, on_start, on_failure)
    # Other threads may be at their first calls too, and what they import would be half made in
    # workers that are forked meanwhile.
    with importing.lock:
        from .pathos_host import Host

        importing.at_exit()
        return Host(workers, start_method, on_start, on_failure)
