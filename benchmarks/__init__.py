"""Benchmarks: the same work on parallelkit and on its peers, side by side in one run.

    python -m benchmarks                     # everything, with a Markdown table and a JSON file at the end
    python -m benchmarks --quick             # under two minutes
    python -m benchmarks --only stream       # cases whose name contains "stream"
    python -m benchmarks.faults              # what a dead worker, Ctrl-C and a dead parent cost
    python -m benchmarks.floors              # what no design like ours can leave out, beside what the goals ask for

How a figure comes about::

    __main__   what is asked for
       |
    harness    for each case: one child process per contestant, rounds interleaved, a time limit on each
       |  ^
       v  |    one JSON object per line
    runner     in the child: builds the peer's pool and the data, then measures one round per request
       |
    cases/     what is measured        peers    how each library is asked to do it        work    the functions run
       |
    report     medians, tables, JSON

Every contestant runs in a process of its own. So a peer that hangs costs a time limit and nothing else, no
peer forks the data of another, and each figure is that of a program which uses this library only.
"""
