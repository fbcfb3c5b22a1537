"""Run a script in a Python of its own, and see that it leaves neither a process nor a file."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import uuid
from dataclasses import dataclass
from pathlib import Path

import psutil
from helpers import wait_until

import parallelkit as pk

# Variables that say how everything is to be tested, by make.
OF_TESTS = ("PARALLELKIT_FORK_SERVER", "PARALLELKIT_WITHOUT")


@dataclass(frozen=True)
class Ran:
    """How a script ended; ``values`` are the JSON lines that it printed."""

    code: int
    out: str
    err: str

    @property
    def values(self):
        return [json.loads(line) for line in self.out.splitlines()]


def run_script(command, source=None, *, code=0, env=None, cwd=None, timeout=90, files=True):
    """Run a command; fail when it hangs, ends with another code, or leaves a process or a file behind.

    With ``files=False`` files may be left, as by a process that is killed. Whatever it fails for, a time
    limit of the test among that, none of its processes goes on.
    """
    token = uuid.uuid4().hex
    home = str(Path(pk.__file__).parents[1])
    with tempfile.TemporaryDirectory(prefix="s-") as temp, _ended_at_failure(token):
        surroundings = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith("PARALLELKIT_") or name in OF_TESTS
            },
            "PYTHONPATH": os.pathsep.join(filter(None, [home, os.environ.get("PYTHONPATH")])),
            "CONTRACT_TOKEN": token,
            "PYTHONDONTWRITEBYTECODE": "1",  # what a script imports leaves nothing beside it
            **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), temp),
            **(env or {}),
        }
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            input=source or "",
            capture_output=True,
            text=True,
            env=surroundings,
            cwd=cwd or temp,
            timeout=timeout,
        )
        ran = Ran(done.returncode, done.stdout, done.stderr)
        assert ran.code == code, f"exit code {ran.code}\n{ran.out}\n{ran.err}"
        wait_until(lambda: not _with_token(token), f"the end of {_with_token(token)}")
        left = sorted(Path(temp).rglob("*"))
        assert not files or not left, f"the script left files behind: {left}"
    return ran


@contextlib.contextmanager
def _ended_at_failure(token):
    """End all processes with a token where the block fails."""
    try:
        yield
    except BaseException:
        while left := _with_token(token):  # also what one of them has started meanwhile
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=1)
        raise


def _with_token(token):
    """The processes that a script started, however far down."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if (
                process.environ().get("CONTRACT_TOKEN") == token
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process)
    return found
