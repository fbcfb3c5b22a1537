"""Arguments, exit codes and errors of ``python -m parallelkit``."""

from __future__ import annotations

import argparse
import difflib
import itertools
import json
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NoReturn

from .. import __version__
from ..errors import ParallelError
from . import info, stores, sweeping, tracing

__all__ = ["main"]

PROGRAM = "python -m parallelkit"
OK, FAILED, USAGE, TROUBLE, INTERRUPTED = 0, 1, 2, 3, 130
EXIT_CODES = """
exit codes:
  0    all points are finished and well
  1    some points failed; they are in the table
  2    the command is wrong: an option, a value, a function that cannot be found
  3    it could not be done: a store that cannot be used, a package that is missing, a full disk
  130  interrupted by Ctrl-C; what was finished is in the store
"""
EXAMPLES = {
    "sweep": """
values:
  depth=3,5,7           these; whole numbers, numbers, true, false, none, else texts
  depth=1:5             the whole numbers from 1 to 5, both included; 1:9:2 in steps of 2
  rate=0.1:1.0:log5     5 numbers from 0.1 to 1.0, evenly spaced by factors; lin5: by differences
  name='"5"','"a,b"'    texts that look like something else
  layers=[64,64],[32]   lists, tuples and dicts as Python has them: two values here, and likewise in
  layers=[[64,64],[32]] a list around all values, as in pk.grid

functions:
  The module or script is imported, so what stands at its top level runs, but for what is under
  `if __name__ == "__main__":`. Keywords that are the same for all points: --frozen rows=100

examples:
  python -m parallelkit sweep package.module:train depth=3,5,7 rate=0.1:1.0:log5
  python -m parallelkit sweep train.py:train depth=3,5,7 --store run.db --workers -1 --timeout 60
  python -m parallelkit sweep train.py:train depth=3,5 --set folder=data --csv out.csv --plot a.png
  python -m parallelkit sweep --resume run.db
""",
    "show": """
examples:
  python -m parallelkit show run.db
  python -m parallelkit show run.db --best score --top 10
  python -m parallelkit show run.db --csv - | head
""",
    "merge": """
Points that several files have are taken once; where their results differ that is told, the later
one is taken, and the exit code is 1. The files stay as they are.

examples:
  python -m parallelkit merge run-*.db --store all.db
""",
    "export": """
examples:
  python -m parallelkit export run.db run.csv --no-formulas
  python -m parallelkit export run-*.db all.parquet
  python -m parallelkit export run.db - | head
""",
    "trace": """
Everything behind the script's name is the script's. Files by --to: .html is a page, .png, .svg or
.pdf a picture, any other Chrome trace event JSON, for ui.perfetto.dev or speedscope. A summary with
advice is printed when the script has ended. The exit code is the script's.

examples:
  python -m parallelkit trace script.py --its-own option
  python -m parallelkit trace --to run.html --to run.json script.py
  python -m parallelkit trace -m package.module
""",
    "info": "",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if hasattr(sys.stdout, "reconfigure"):  # a terminal may lack some letters
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        with warnings.catch_warnings() if given[:1] != ["trace"] else nullcontext():
            if given[:1] != ["trace"]:  # whose warnings are the script's
                warnings.showwarning = _warned
            code = _run(_parser(), given)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt as stopped:
        print(f"{PROGRAM}: {str(stopped) or 'interrupted'}", file=sys.stderr)
        return INTERRUPTED
    except sweeping.Usage as error:
        return _told(error, USAGE)
    except (ParallelError, OSError) as error:
        return _told(error, TROUBLE)
    except (TypeError, ValueError, KeyError) as error:
        return _told(error, USAGE)
    return code


def _run(parser: argparse.ArgumentParser, given: list[str]) -> int:
    options = _parsed(parser, given)
    if options.command == "info":
        info.show()
        return OK
    if options.command == "trace":
        options.to = options.to or ["trace.json"]
        return tracing.run(options)
    if options.command == "show":
        sweeping.show(options)
        return OK
    if options.command == "merge":
        return OK if stores.merge(options) else FAILED
    if options.command == "export":
        stores.export(options)
        return OK
    folder = os.getcwd()
    if options.resume is not None:
        if options.function is not None:
            raise sweeping.Usage("--resume takes the function and its values from the store")
        given, folder = sweeping.stored_command(options.resume, given)
        options = _parsed(parser, given)
    elif options.function is None:
        raise sweeping.Usage("name a function: package.module:function or script.py:function")
    note = json.dumps({"arguments": given, "folder": folder})
    table = sweeping.sweep(options, folder, note)
    return FAILED if table.failed else OK


def _parsed(parser: argparse.ArgumentParser, given: list[str]) -> argparse.Namespace:
    """Arguments, where values may stand before, between and after options."""
    _look(parser, given)
    options, more = parser.parse_known_args(given)
    unknown = [word for word in more if word.startswith("-") and word != "-"]
    if unknown or (more and options.command != "sweep"):
        _refuse(parser, options.command, (unknown or more)[0])
    if options.command != "sweep":
        return options
    words = [*options.words, *more]
    options.function = words[0] if words else None
    options.values = words[1:]
    return options


def _warned(message: Warning | str, category: type[Warning], *_: Any, **__: Any) -> None:
    """Show a warning without the line of ours at which it was given."""
    kind = "" if category is UserWarning else f"{category.__name__}: "
    print(f"{PROGRAM}: warning: {kind}{message}", file=sys.stderr)


def _look(parser: argparse.ArgumentParser, given: list[str]) -> None:
    """Refuse what is misspelt before argparse misses what it stands for."""
    commands = _commands(parser)
    name = given[0] if given else ""
    if name not in commands:
        known = [*commands, *_options(parser)]
        near = difflib.get_close_matches(name, known, 1)
        if near and name not in known:
            parser.error(f"there is no {name!r}; did you mean {near[0]}?")
        return
    if name == "trace":  # behind the script's name the options are the script's
        return
    known = _options(commands[name])
    for word in itertools.takewhile(lambda word: word != "--", given[1:]):
        option = word.partition("=")[0]
        if option.startswith("--") and not any(one.startswith(option) for one in known):
            _refuse(parser, name, word)


def _options(command: argparse.ArgumentParser) -> list[str]:
    return [one for action in command._actions for one in action.option_strings]  # noqa: SLF001 - argparse has no public way to list options


def _refuse(parser: argparse.ArgumentParser, name: str, word: str) -> NoReturn:
    """Say that a command does not know a word, how it is used, and what may have been meant."""
    command = _commands(parser)[name]
    if not word.startswith("-"):
        command.error(f"{word!r} is one argument too many")
    option = word.partition("=")[0]
    known = _options(command)
    near = difflib.get_close_matches(option, known, 1)
    hint = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}"
    command.error(f"unknown option {option}; {hint}")


def _commands(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of the commands, by name."""
    for action in parser._actions:  # noqa: SLF001 - likewise
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            return action.choices
    raise AssertionError


def _told(error: BaseException, code: int) -> int:
    text = error.args[0] if isinstance(error, KeyError) and error.args else error
    from ..sweeps.database import clean  # a stranger's column may be in it

    print(f"{PROGRAM}: error: {' '.join(clean(str(text)).split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Sweeps of a function over a grid of parameters, and traces of scripts.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"parallelkit {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, help: str) -> argparse.ArgumentParser:  # noqa: A002 - argparse's word
        return commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog=EXAMPLES[name] + ("" if name == "trace" else EXIT_CODES),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )

    _sweep_arguments(command("sweep", "run a function over a grid of parameters"))
    _show_arguments(command("show", "show the table of a stored sweep"))
    _merge_arguments(command("merge", "make one store of several"))
    _export_arguments(command("export", "write the table of a store to a file of another kind"))
    _trace_arguments(command("trace", "run a script and record what its parallel calls do"))
    command("info", "tell what this machine and installation are, for a bug report")
    return parser


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "words",
        nargs="*",
        metavar="FUNCTION NAME=VALUES",
        help="package.module:function or script.py:function, then parameters and their values",
    )
    add(
        "--set",
        "--frozen",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a keyword for all points",
    )
    add("--where", metavar="CONDITION", help="points that fit alone, such as 'depth * rate < 6'")
    add("--store", metavar="FILE", help="keep results there; the same command goes on after a kill")
    add(
        "--on-change",
        choices=("warn", "rerun", "error", "ignore"),
        help="what to do about stored rows of other code (default: warn)",
    )
    add("--part", metavar="I/N", help="run part I (from 0) of N alone, in a store of its own")
    add("--resume", metavar="FILE", help="go on with the sweep of this store")
    add("--retry-failed", action="store_true", help="run points again that are stored as failed")
    add("--version", dest="func_version", metavar="V", help="of the function, for the store")
    add("--repeats", type=int, default=1, metavar="N", help="runs of each point (default: 1)")
    add("--seed", type=int, metavar="N", help="of the points' random streams")
    add("--shuffle", action="store_true", help="run the points in a random order")
    add("--workers", type=int, metavar="N", help="how many at a time; -1: all cores")
    add("--backend", metavar="NAME", help="process (default), thread or serial")
    add("--timeout", type=float, metavar="SECONDS", help="time limit of a point")
    add("--retries", type=int, metavar="N", help="new attempts for points whose worker died")
    add("--no-progress", action="store_true", help="no bar, also on a terminal")
    _table_arguments(parser)


def _show_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "store", nargs="+", help="file of a sweep; it may be running. Several give one table"
    )
    parser.add_argument("--name", metavar="FUNCTION", help="only rows of this function")
    parser.add_argument("--failed", action="store_true", help="only failed points, with tracebacks")
    parser.add_argument(
        "--provenance", action="store_true", help="where the rows come from: host, versions, commit"
    )
    parser.add_argument(
        "--pickle", action="store_true", help="load pickles: runs code of who made the store"
    )
    _table_arguments(parser)


def _merge_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="FILE", help="files of sweeps; also a pattern in quotes")
    add("--store", "--into", required=True, metavar="FILE", help="a new file for all of it")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("files", nargs="+", metavar="STORE", help="files of sweeps, which give one table")
    add("to", metavar="FILE", help="what to write: .csv, .parquet or .jsonl; - is CSV, printed")
    add("--name", metavar="FUNCTION", help="only rows of this function")
    add("--no-formulas", action="store_true", help="cells that begin like a formula stay texts")
    add("--pickle", action="store_true", help="load pickles: runs code of who made the store")


def _trace_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--to", action="append", metavar="FILE", help="what to write (default: trace.json)")
    add("-m", dest="module", action="store_true", help="run a module instead of a script")
    add("words", nargs=argparse.REMAINDER, metavar="SCRIPT ...", help="the script, its arguments")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text}: must be 0 or more")
    return number


def _table_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--best", metavar="COLUMN", help="sort by this column, the best mean over repeats first")
    add("--rows", action="store_true", help="sort single rows, not means over repeats")
    add("--mode", choices=("max", "min"), default="max", help="which is best (default: max)")
    add("--top", type=_count, metavar="N", help="how many of the best to show")
    add("--csv", metavar="FILE", help="write the table there; - is standard output")
    add("--plot", metavar="FILE", help="draw the --best column, or the first result, there")
