"""Run the contestants of a case in turns, each in its own child process, each round under a time limit.

The rounds are interleaved (A B C, B C A, ...), so that a machine that slows down for a while slows all of them.
A contestant that has used up its share of time stops early; how many rounds it did is part of its record.
"""

import contextlib
import json
import os
import pathlib
import queue
import signal
import subprocess
import sys
import threading
import time
import uuid
from dataclasses import dataclass

from benchmarks import cases, peers
from benchmarks.results import Record

#: In the environment of a child and of all that comes of it, found even when those between have died.
MARK = "BENCHMARK_FAMILY"
ROOT = pathlib.Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Plan:
    """What was asked for on the command line."""

    size: str = "full"
    workers: int = 2
    cases: tuple = tuple(cases.ALL)
    peers: tuple = tuple(peers.ALL)
    rounds: int | None = None

    @property
    def limit(self):
        """Seconds that one round may take before it counts as a hang."""
        return 120 if self.size == "full" else 30

    @property
    def share(self):
        """Seconds of measuring after which a contestant gets no further round of a case."""
        return {"full": 8, "quick": 0.6, "tiny": 0.1}[self.size]

    def rounds_of(self, case):
        if self.rounds:
            return self.rounds
        return {"full": case.rounds[0], "quick": case.rounds[1], "tiny": 0}[self.size]


class ContestantError(Exception):
    """A contestant that hung, died or gave a wrong answer; the message goes into the table."""


class Contestant:
    """The child process behind one record (see ``runner`` for what is said between the two)."""

    def __init__(self, record, plan):
        self.record = record
        self.plan = plan
        self.spent = 0.0
        self._closed = False
        self._mark = uuid.uuid4().hex
        request = {
            "case": record.case,
            "peer": record.peer,
            "variant": record.variant,
            "size": plan.size,
            "workers": plan.workers,
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.runner", json.dumps(request)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # what matters comes as a reply
            text=True,
            env=environment(**{MARK: self._mark}),
            start_new_session=True,
        )
        self._replies = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def ready(self):
        self.record.settings = self._reply()["settings"]

    def measure(self):
        """One round; False when there is no time for another."""
        before = time.perf_counter()
        with contextlib.suppress(BrokenPipeError):  # it died: the reply says so
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        reply = self._reply()
        self.record.rounds.append(reply["seconds"])
        self.record.items, self.record.ideal = reply["items"], reply["ideal"]
        self.record.note = reply.get("note", "")
        last = time.perf_counter() - before
        self.spent += last
        return self.spent + last < self.plan.share

    def dismiss(self):
        """Tell it that there is no more to do."""
        with contextlib.suppress(OSError):
            self._process.stdin.close()

    def close(self):
        """Let it leave by itself, then make sure that nothing of it is left."""
        if self._closed:
            return
        self._closed = True
        self.dismiss()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(0.5 if self.record.error else 3)
        if hasattr(os, "killpg"):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        else:
            self._process.kill()
        self._process.wait()
        if peers.ALL[self.record.peer].cluster:  # its processes have groups of their own
            for pid in marked(self._mark):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._listener.join(5)
        self._process.stdout.close()

    def _listen(self):
        for line in self._process.stdout:
            self._replies.put(json.loads(line))
        self._replies.put({"error": "died", "traceback": ""})

    def _reply(self):
        try:
            reply = self._replies.get(timeout=self.plan.limit)
        except queue.Empty:
            raise ContestantError(f"hangs (> {self.plan.limit} s)") from None
        if "error" in reply:
            self.record.traceback = reply["traceback"]
            raise ContestantError(reply["error"])
        return reply


def marked(mark):
    """Ids of the processes that are alive and carry a mark in their environment, zombies left out."""
    import psutil

    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


def environment(**more):
    """The environment of a child: this one, with the folder of this project importable.

    And compiled, as what is installed is, so that the cases about start-up do not measure Python's compiler.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(paths), **more}


def contestants(case, plan):
    """Records to fill for a case: who takes part, is wanted and is installed."""
    entries = [(peer, "") for peer in case.peers]
    entries += [(peer, variant) for variant, names in case.tuned.items() for peer in names]
    return [
        Record(case.name, peer, variant, forks=peers.forks(peer, variant))
        for peer, variant in entries
        if peer in plan.peers and peers.ALL[peer].version() is not None
    ]


def run(plan, tell):
    """Measure everything in ``plan``, and yield the records of case after case; ``tell`` gets news as text."""
    for name in plan.cases:
        start = time.perf_counter()
        tell(f"{name} ...")
        yield run_case(cases.ALL[name], plan)
        tell(f"{name}: {time.perf_counter() - start:.1f} s\n")


def run_case(case, plan):
    return in_turns(contestants(case, plan), plan.rounds_of(case), plan)


def in_turns(records, rounds, plan):
    """Fill records, round by round, each contestant in a process of its own."""
    with contextlib.ExitStack() as stack:
        everyone = []
        for record in records:
            everyone.append(Contestant(record, plan))
            stack.callback(everyone[-1].close)
        places = {id(each): place for place, each in enumerate(everyone)}
        running = [each for each in everyone if _done(each, each.ready) is not None]
        for turn in range(rounds + 1):
            shift = turn % max(1, len(running))
            order = running[shift:] + running[:shift]
            running = [each for each in order if _done(each, each.measure)]
            running.sort(key=lambda each: places[id(each)])
        for each in everyone:
            each.dismiss()
    for record in records:
        if len(record.rounds) > 1:
            del record.rounds[0]  # the one that warmed up
    return records


def _done(contestant, step):
    """True, False as ``step`` says (True for None), or None when the contestant is out."""
    try:
        return step() is not False
    except ContestantError as error:
        contestant.record.error = str(error)
        contestant.close()
        return None
