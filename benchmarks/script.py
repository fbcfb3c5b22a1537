"""What a function of the script costs a warm call, beside one that workers import: `python -m benchmarks.script`.

The function has 200 lines, ten helpers, and a dict and a list among its globals. Of 100 globals one dict is
changed before each of some calls, and what is sent of the script is counted.
"""

import math
import statistics
import sys
import time

import parallelkit as pk
from parallelkit.transport.script import script

CALLS = 3000
LINES = 190
SCALE, WEIGHTS = {"factor": 1.0}, [1.0] * 10
for number in range(10):
    exec(f"def helper_{number}(x):\n    return x + {number}\n")
body = "".join(f"        x = helper_{n % 10}(x) * WEIGHTS[{n % 10}]\n" for n in range(LINES))
exec(
    "def long_one(x):\n    if x < 0:\n"
    f"{body}    x = helper_0(x) * SCALE['factor'] * WEIGHTS[0]\n    return math.sqrt(x)\n"
)
for number in range(100):
    globals()[f"table_{number}"] = dict.fromkeys(map(str, range(10)), number)
long_one = globals()["long_one"]
names = ", ".join(f"table_{n}['0']" for n in range(100))
exec(f"def of_tables(x):\n    return sum(({names},))\n")
of_tables = globals()["of_tables"]


def microseconds(pool, *functions):
    """Medians of warm calls of two items, in turns: by the clock, and of the caller's processor time."""
    taken = [[] for _ in functions]
    for _ in range(CALLS):
        for function, times in zip(functions, taken, strict=True):
            begin, used = time.perf_counter(), time.thread_time()
            assert pool.map(function, [4.0, 9.0]) == [2.0, 3.0]
            times.append((time.perf_counter() - begin, time.thread_time() - used))
    return [[1e6 * statistics.median(t) for t in zip(*times, strict=True)] for times in taken]


def bytes_of_the_script(pool, change):
    """Most bytes that a worker is sent of the script with a call, before which something may be changed."""
    sent, news = [], script.news

    def counted(*args):
        pickled = news(*args)
        sent.append(0 if pickled is None else pickled.nbytes)
        return pickled

    call(pool)
    change()
    script.news = counted
    try:
        call(pool)
    finally:
        del script.news
    return max(sent)


def call(pool):
    expected = sum(table["0"] for table in tables())
    assert pool.map(of_tables, range(40)) == [expected] * 40  # more than one worker takes


def tables():
    return [globals()[f"table_{n}"] for n in range(100)]


def main():
    with pk.Pool(2, chunksize=1) as pool:
        pool.map(abs, [1, 2])
        print("a warm call of two items, µs: by the clock, and of the caller's processor time")
        for name, (clock, processor) in zip(
            ("math.sqrt", "200 lines of __main__, ten helpers"),
            microseconds(pool, math.sqrt, long_one),
            strict=True,
        ):
            print(f"{name:40} {clock:7.1f} {processor:7.1f}")
        print("of 100 dicts of ten elements, bytes that a worker is sent")
        everything = bytes_of_the_script(pool, lambda: [t.update(more=1) for t in tables()])
        one = bytes_of_the_script(pool, lambda: tables()[50].update({"0": 1000}))
        none = bytes_of_the_script(pool, bool)
        print(
            f"{'all changed':40} {everything:7}\n{'one changed':40} {one:7}\n{'none':40} {none:7}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
