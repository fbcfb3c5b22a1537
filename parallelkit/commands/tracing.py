"""``python -m parallelkit trace script.py``: a script as it is, with a trace of it."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
import traceback
from types import ModuleType
from typing import Any

from ..traces.trace import trace
from .sweeping import Usage

__all__ = ["run"]

FAILED, INTERRUPTED = 1, 130
_FOLDER = os.path.dirname(os.path.abspath(__file__))


def run(options: argparse.Namespace) -> int:
    """Run a script or a module; return its exit code."""
    words = options.words[1:] if options.words[:1] == ["--"] else options.words
    if not words:
        raise Usage("name a script: python -m parallelkit trace script.py, or -m module")
    if not options.module and not os.path.isfile(words[0]):
        raise Usage(f"there is no script {words[0]!r}; a module is run by -m")
    recorded = trace(options.to[0])
    with recorded:
        for path in options.to[1:]:
            recorded.check(path)
        code = _run(words, options.module)
        for path in options.to[1:]:
            recorded.write(path)
    sys.stdout.flush()
    print(f"\n{recorded.summary()}\nwritten to {', '.join(options.to)}", file=sys.stderr)
    return code


def _run(words: list[str], is_module: bool) -> int:
    """Run it as Python does, down to what is printed where it fails."""
    sys.argv = words
    try:
        if is_module:
            sys.path[0] = os.getcwd()
            runpy.run_module(words[0], run_name="__main__", alter_sys=True)
        else:
            sys.path[0] = os.path.dirname(os.path.realpath(words[0]))
            _run_script(words[0])
    except SystemExit as left:
        if left.code is None or isinstance(left.code, int):
            return left.code or 0
        print(left.code, file=sys.stderr)
        return FAILED
    except BaseException as error:  # noqa: BLE001 - the script's, shown as Python shows it
        _show(error)
        return INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
    return 0


def _run_script(path: str) -> None:
    """Run a script as ``__main__``; `runpy` would empty that module when the script ends."""
    module = ModuleType("__main__")
    names: dict[str, Any] = vars(module)
    names["__file__"], names["__builtins__"] = path, __builtins__
    sys.modules["__main__"] = module
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    exec(code, names)  # noqa: S102 - what the user asked for


def _show(error: BaseException) -> None:
    tb = error.__traceback__
    while tb is not None and (
        tb.tb_frame.f_code.co_filename.startswith(_FOLDER)
        or "runpy" in tb.tb_frame.f_code.co_filename
    ):
        tb = tb.tb_next
    sys.stdout.flush()
    traceback.print_exception(type(error), error, tb)
