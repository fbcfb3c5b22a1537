"""A program that a test starts, talks to by files and signals, and watches for what it leaves behind."""

import contextlib
import os
import pty
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import running
from faults import wait_for_files
from helpers import wait_until

import parallelkit as pk

AT_ONCE = 15.0  # seconds; items would run for ten minutes, so what is done by then has not waited for them

# Items that do not end by themselves, in the ways in which programs do that. Each leaves a file when it runs.
ITEMS = """
import ctypes, fcntl, os, pathlib, signal, sys, tempfile, termios, threading, time
import parallelkit as pk
tempfile.gettempdir()  # Python tries a file in it, at the latest when dill is imported: a signal might leave that behind
FOLDER = pathlib.Path(sys.argv[1])
if os.isatty(0):
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)  # Ctrl-C on this terminal is for us
def held(x, what="held"):
    (FOLDER / f"{what}-{x}-{os.getpid()}").touch()
def wait(x):
    held(x)
    threading.Event().wait(600)
def sleep(x):
    held(x)
    time.sleep(600)
def spin(x):
    held(x)
    end = time.monotonic() + 600
    while time.monotonic() < end:
        pass
def lock(x):
    held(x)
    ctypes.PyDLL(None).sleep(600)
def defy(x):
    end = time.monotonic() + 600
    while time.monotonic() < end:
        try:
            held(x)
            time.sleep(600)
        except BaseException:
            held(x, "defied")
"""


class Program:
    """A script in a session of its own, on a terminal if that is asked for.

    Its own folder, where its items leave files, is its first argument.
    """

    def __init__(self, folder, source, terminal=False):
        self.folder = folder / "files"
        self.folder.mkdir()
        self.temp = folder / "temp"
        self.temp.mkdir()
        self.token = uuid.uuid4().hex
        self.terminal = None
        path = folder / "program.py"
        path.write_text(source)
        home = str(Path(pk.__file__).parents[1])
        env = {**os.environ, "CONTRACT_TOKEN": self.token, "TMPDIR": str(self.temp)}
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [home, env.get("PYTHONPATH")]))
        line = subprocess.DEVNULL
        if terminal:
            self.terminal, line = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, path, self.folder],
            stdin=line,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )
        if terminal:
            os.close(line)
        self.since = time.monotonic()

    def wait_for(self, count, what="held-*"):
        """Wait until items have left as many files."""
        wait_until(
            lambda: self.process.poll() is not None or len(list(self.folder.glob(what))) >= count,
            f"{count} × {what}",
        )
        assert self.process.poll() is None, self.process.communicate()
        wait_for_files(self.folder, count, what)

    def ctrl_c(self):
        """Interrupt all its processes, as a terminal does."""
        self.since = time.monotonic()
        if self.terminal is None:
            os.killpg(self.process.pid, signal.SIGINT)
        else:
            os.write(self.terminal, b"\x03")

    def kill(self, number):
        """Send a signal to the program alone."""
        self.since = time.monotonic()
        self.process.send_signal(number)

    def end(self, code=0):
        """What it printed; fails unless it ends soon after the signal, in silence, and leaves nothing."""
        out, err = self.process.communicate(timeout=60)
        assert time.monotonic() - self.since < AT_ONCE, (out, err)
        assert self.process.returncode == code, (out, err)
        wait_until(lambda: not self.left(), "the end of its processes")
        assert time.monotonic() - self.since < 2 * AT_ONCE
        assert sorted(self.temp.rglob("*")) == []
        return out, err

    def left(self):
        """Its processes that still run."""
        return running._with_token(self.token)

    def close(self):
        """End it, whatever became of it."""
        for process in [*self.left(), self.process]:
            with contextlib.suppress(Exception):
                process.kill()
        self.process.wait()
        for stream in (self.process.stdout, self.process.stderr):
            stream.close()
        if self.terminal is not None:
            os.close(self.terminal)
