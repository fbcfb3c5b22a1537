"""The small cases that parallelkit is measured against, each with its expected result asserted.

Functions of one, two and frozen arguments; a bar; methods of a class of the script with parallel
calls inside; unlike calls in one go; lazy iterators under a bar; a live queue as input; workers
that open something once.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from math import sqrt
from typing import TYPE_CHECKING

from tqdm.auto import tqdm

import parallelkit as pk

if TYPE_CHECKING:
    import sqlite3


def f1(x: int) -> int:
    """One varying argument."""
    return x + 1


def f2(x: int, y: int) -> int:
    """Two varying arguments."""
    return x + y


def f3(x: int, y: int, p: int) -> int:
    """Two varying arguments and one that is frozen."""
    return x + y + p


def f4(x: int) -> int:
    """Slow enough for its bar to be seen."""
    time.sleep(0.01)
    return x * x


class Nested:
    """Methods that make parallel calls of their own, on threads if told so."""

    def __init__(self, *, thread: bool) -> None:
        self.thread = thread

    def f5(self, x: int) -> int:
        """Return x + 9: the sum of [2, 3, 4] by an inner call of one varying argument."""
        return x + sum(pk.parallel(f1, [1, 2, 3], thread=self.thread))

    def f6(self, x: int) -> int:
        """Return x + 15: the sum of [3, 5, 7] by an inner call of two varying arguments."""
        return x + sum(pk.parallel(f2, [1, 2, 3], [2, 3, 4], thread=self.thread))


def show(name: str, got: object, expected: object) -> None:
    """Assert what a case gave, and print it."""
    assert got == expected, f"{name}: expected {expected!r}, got {got!r}"
    text = repr(got)
    print(f"{name:<34} {text if len(text) <= 60 else text[:57] + '...'}")


def plain_functions() -> None:
    """`parallel` over one list, two lists, two lists and a frozen keyword, and with a bar."""
    show("f1 over one list", pk.parallel(f1, [1, 2, 3]), [2, 3, 4])
    show("f2 over two lists", pk.parallel(f2, [1, 2, 3], [4, 5, 6]), [5, 7, 9])
    show("f3 with p=200 frozen", pk.parallel(f3, [1, 2, 3], [4, 5, 6], p=200), [205, 207, 209])
    show("f4 with its bar", pk.parallel(f4, range(100), show=True), [x * x for x in range(100)])


def nested_methods() -> None:
    """Methods in processes, with inner calls left to the nesting rules or told to use threads."""
    for thread in (False, True):
        nested = Nested(thread=thread)
        inside = ", inner thread=True" if thread else ""
        show(f"method f5{inside}", pk.parallel(nested.f5, range(10)), [x + 9 for x in range(10)])
        show(f"method f6{inside}", pk.parallel(nested.f6, range(10)), [x + 15 for x in range(10)])


def delayed_calls() -> None:
    """A list comprehension turned parallel by `delayed` and `run`, on processes and on threads."""
    expected = [sqrt(i**2) for i in range(10)]
    show("run, processes", pk.run(pk.delayed(sqrt)(i**2) for i in range(10)), expected)
    with pk.Pool(backend="thread") as pool:
        show("run, threads", pool.run(pk.delayed(sqrt)(i**2) for i in range(10)), expected)


def iterators_with_bars() -> None:
    """Lazy results under a bar made by hand, and under the one that the pool brings."""
    expected = [x * x for x in range(100)]
    by_hand = tqdm(pk.imap(f4, range(100)), total=100, desc="imap, bar by hand")
    show("imap, bar by hand", list(by_hand), expected)
    by_hand = tqdm(pk.uimap(f4, range(100)), total=100, desc="uimap, bar by hand")
    show("uimap, bar by hand, sorted", sorted(by_hand), expected)
    with pk.Pool(progress=True) as pool:
        show("imap, built-in bar", list(pool.imap(f4, range(100))), expected)
        show("uimap, built-in bar, sorted", sorted(pool.uimap(f4, range(100))), expected)


def hello(name: str) -> str:
    """Consume one name."""
    return f"hello {name}"


def live_queue() -> None:
    """Results come out while the producer still feeds; the producer says when the input ends."""
    names = ["Ada", "Blaise", "Carl", "Dorothy", "Emmy", "Felix"]
    q: queue.Queue[str | None] = queue.Queue()
    greeted = threading.Event()
    greeted_in_time: list[bool] = []

    def produce() -> None:
        for name in names[:3]:
            q.put(name)
        # The second half is fed after the first greeting: a call that wants all of its input
        # before it gives a result, or one more item for each result, would not get that far.
        greeted_in_time.append(greeted.wait(timeout=60))
        for name in names[3:]:
            q.put(name)
        q.put(None)

    producer = threading.Thread(target=produce)
    producer.start()
    greetings = []
    for greeting in pk.uimap(hello, iter(q.get, None)):
        greetings.append(greeting)
        print(f"    {greeting}{'  (the producer still feeds)' if producer.is_alive() else ''}")
        greeted.set()
    producer.join()
    show("live queue, fed while consumed", greeted_in_time, [True])
    show("live queue, sorted", sorted(greetings), [f"hello {name}" for name in names])


session: sqlite3.Connection  # each worker's own; there is none in the main process


def open_session(size: int) -> None:
    """Load the library and open the session, once per worker."""
    import sqlite3  # stands for a heavy library that only the workers load

    global session
    session = sqlite3.connect(":memory:", check_same_thread=False)
    session.execute("CREATE TABLE squares (x INTEGER PRIMARY KEY, y INTEGER)")
    session.executemany("INSERT INTO squares VALUES (?, ?)", ((x, x * x) for x in range(size)))


def look_up(x: int) -> tuple[int, tuple[int, int]]:
    """Ask the worker's session; return the answer, and which session of which process gave it."""
    (y,) = session.execute("SELECT y FROM squares WHERE x = ?", (x,)).fetchone()
    return y, (os.getpid(), id(session))


def sessions_in_workers() -> None:
    """An initializer runs once in each worker; what it opens serves every item there."""
    with pk.Pool(2, initializer=open_session, initargs=(100,)) as pool:
        answers, sessions = zip(*pool.map(look_up, range(100)), strict=True)
    show("session opened once per worker", list(answers), [x * x for x in range(100)])
    processes = {pid for pid, _ in sessions}
    assert len(set(sessions)) == len(processes) <= 2, "a worker opened more than one session"
    assert os.getpid() not in processes, "the session belongs into the workers"


def main() -> None:
    """Run every case."""
    plain_functions()
    nested_methods()
    delayed_calls()
    iterators_with_bars()
    live_queue()
    sessions_in_workers()
    print("all cases gave what they should")


main()
