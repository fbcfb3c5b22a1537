"""How many CPUs a Ray has, asked so that a head that is lost is told rather than waited for."""

from __future__ import annotations

import socket
import threading
import time
from concurrent.futures import Future
from typing import Any

from ..place.sigint import by_a_handler

__all__ = ["Census", "knock"]

LOOK = 0.9  # seconds between questions
SOON = 0.1  # seconds to wait for an answer, where there is an old one
GONE = 20.0  # seconds without an answer after which the head counts as lost


class Census:
    """CPUs of all nodes of a Ray.

    Where its head is lost, Ray waits for it for a minute, and then ends the whole process. So it is
    asked only if the head can be reached, and in a thread.

    Parameters
    ----------
    ray : module
    head : str
        Its address.
    """

    def __init__(self, ray: Any, head: str) -> None:
        self._ray = ray
        self.head = head
        self._lock = threading.Lock()
        self._number = 0
        self._next = 0.0
        self._since: float | None = None
        self._answer: Future[int] | None = None

    def cpus(self) -> int:
        """How many there are, as they were within the last seconds.

        Raises what tells why the head does not answer, once it has not for `GONE` seconds.
        """
        with self._lock:
            now = time.monotonic()
            if now < self._next:
                return self._number
            if self._answer is None:
                self._answer = Future()
                threading.Thread(target=self._ask, args=(self._answer,), daemon=True).start()
            try:
                self._number = self._answer.result(SOON if self._number else GONE)
                self._since = None
            except Exception as error:
                if self._since is None:
                    self._since = now
                if by_a_handler(error) or not self._number or now - self._since > GONE:
                    raise
            if self._answer.done():
                self._answer = None
            self._next = time.monotonic() + LOOK
            return self._number

    def _ask(self, answer: Future[int]) -> None:
        try:
            knock(self.head, GONE)
            answer.set_result(int(self._ray.cluster_resources().get("CPU", 0)))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is no answer
            answer.set_exception(error)


def knock(address: str, seconds: float) -> None:
    """Raise an OSError if nobody listens at an address with a port."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
