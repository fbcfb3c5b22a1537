"""How long a call's way through the code is: Python calls, files entered, and entries into them.

``python -m benchmarks.calls [--list]`` counts, with `sys.setprofile`, what the parent does for one
warm call of one chunk and for one chunk more. An entry is a call from one file into another.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import parallelkit as pk

WARM = 20  # calls before the one that is counted


class Way:
    """Counts the Python calls of all threads that are begun after :meth:`watch`."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, str, str]] = []
        self.counting = False

    def watch(self) -> None:
        threading.setprofile(self._note)
        sys.setprofile(self._note)

    def end(self) -> None:
        threading.setprofile(None)
        sys.setprofile(None)

    def _note(self, frame: Any, event: str, _: object) -> None:
        if event == "call" and self.counting and frame.f_back is not None:
            code = frame.f_code
            if code.co_filename != __file__:
                self.calls.append(
                    (frame.f_back.f_code.co_filename, code.co_filename, code.co_qualname)
                )

    def count(self, work: Any) -> tuple[int, int, int]:
        """Calls, files and entries of ``work()``."""
        self.calls.clear()
        self.counting = True
        try:
            work()
        finally:
            self.counting = False
        entries = [(a, b) for a, b, _ in self.calls if a != b]
        return len(self.calls), len({b for _, b, _ in self.calls}), len(entries)


def main() -> None:
    way = Way()
    way.watch()
    with pk.Pool(1, chunksize=1, start_method="forkserver", memory_limit=1 << 40) as pool:
        for _ in range(WARM):
            pool.map(abs, [-1])
            pool.map(abs, [-1, -2])
        one, listed = way.count(lambda: pool.map(abs, [-1])), list(way.calls)
        two = way.count(lambda: pool.map(abs, [-1, -2]))
    with ProcessPoolExecutor(1) as executor:
        for _ in range(WARM):
            list(executor.map(abs, [-1]))
        theirs = way.count(lambda: list(executor.map(abs, [-1])))
    way.end()
    print(f"{'':24}  calls  files  entries")
    print(f"{'one chunk':24}  {one[0]:5}  {one[1]:5}  {one[2]:7}")
    print(f"{'one chunk more':24}  {two[0] - one[0]:5}         {two[2] - one[2]:7}")
    print(f"{'ProcessPoolExecutor':24}  {theirs[0]:5}  {theirs[1]:5}  {theirs[2]:7}")
    if "--list" in sys.argv:
        for (caller, callee, name), count in Counter(listed).items():
            print(
                f"{count:3} {'' if caller == callee else '*'} {callee.rsplit('/', 2)[-2:]} {name}"
            )


if __name__ == "__main__":
    main()
