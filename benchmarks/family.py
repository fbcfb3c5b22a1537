"""A child process and all its descendants, found even when the processes between have died."""

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import uuid

from benchmarks.harness import MARK, environment, marked

LIMIT = 15  # seconds without a reply that count as a hang


class Family:
    """A child that runs one scenario of ``faults``, all that comes of it, and a temporary folder for them alone.

    New entries in shared memory count as its own: nothing else should run beside this benchmark.
    """

    def __init__(self, scenario, name):
        self.mark = uuid.uuid4().hex
        self.own = tempfile.TemporaryDirectory()
        self.folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self.shared_before = self._shared()
        self.stderr = open(os.path.join(self.own.name, "stderr"), "w+")  # noqa: SIM115 - closed by end()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.faults", "--child", scenario, name],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self.stderr,
            text=True,
            env=environment(**{MARK: self.mark, "TMPDIR": self.folder.name}),
            start_new_session=True,
        )
        self.replies = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        for line in self.process.stdout:
            self.replies.put(json.loads(line))
        self.replies.put(None)

    def reply(self, limit=LIMIT):
        """What the child says next; None when it says nothing more, or nothing in time."""
        try:
            return self.replies.get(timeout=limit)
        except queue.Empty:
            return None

    def members(self):
        """Ids of its processes that are alive."""
        return marked(self.mark)

    def files(self):
        """Entries in the temporary folder and new ones in shared memory."""
        return len(os.listdir(self.folder.name)) + len(self._shared() - self.shared_before)

    @staticmethod
    def _shared():
        return set(os.listdir("/dev/shm")) if os.path.isdir("/dev/shm") else set()

    def tracebacks(self):
        self.stderr.seek(0)
        return self.stderr.read().count("Traceback (most recent call last)")

    def end(self):
        for pid in self.members():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()
        self.stderr.close()
        self.folder.cleanup()
        self.own.cleanup()
