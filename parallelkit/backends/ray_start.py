"""Ray on this machine, begun also where much else runs there.

A node of Ray gives its own helpers a quarter of a minute to tell their ports, and ends itself where
they have not; who starts it waits for half a minute. Neither can be set (2.60). On a busy machine
that is too little, and what has begun by then would be left behind. How long it tries to reach
them can be set.
"""

from __future__ import annotations

import inspect
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

__all__ = ["patience"]

START = 120.0  # seconds for a node to start
REGISTER = {"RAY_agent_register_timeout_ms": f"{START * 1000:.0f}"}  # for helpers to be there
PORTS = (  # those that helpers choose, and the node waits for
    "metrics_export_port",
    "metrics_agent_port",
    "dashboard_agent_listen_port",
    "runtime_env_agent_port",
)


@contextmanager
def patience(ray: Any, seconds: float = START) -> Iterator[None]:
    """Within this, nodes that are begun have their ports, and are waited for while they run."""
    services = ray._private.services  # noqa: SLF001 - there is nothing else
    start, ask = getattr(services, "start_raylet", None), getattr(services, "get_node", None)
    if start is None or ask is None:  # another Ray, of which we know nothing
        yield
        return
    begun: list[Any] = []
    end = time.monotonic() + seconds

    def start_raylet(*args: Any, **keywords: Any) -> Any:
        takes = inspect.signature(start)
        told = takes.bind(*args, **keywords).arguments
        if {"session_dir", "node_id"} <= told.keys():
            names = [name for name in PORTS if name in takes.parameters]
            for name, port in zip(names, _free(len(names)), strict=True):
                keywords[name] = told.get(name) or port
                # As the helper leaves it there, once it is up: the node looks nowhere else
                path = Path(told["session_dir"], f"{name}_{told['node_id']}")
                path.write_text(str(keywords[name]))
        if "env_updates" in takes.parameters:
            keywords["env_updates"] = REGISTER | (told.get("env_updates") or {})
        info = start(*args, **keywords)
        begun.append(getattr(info, "process", None))
        return info

    def get_node(*args: Any, **keywords: Any) -> Any:
        while True:
            try:
                return ask(*args, **keywords)
            except RuntimeError:  # it is not there yet
                over = any(process is None or process.poll() is not None for process in begun)
                if over or time.monotonic() > end:
                    raise
            time.sleep(0.1)

    services.start_raylet, services.get_node = start_raylet, get_node
    try:
        yield
    finally:
        services.start_raylet, services.get_node = start, ask


def _free(count: int) -> list[int]:
    """Ports that nobody listens at."""
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in found:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in found]
