"""Runs all blocks of code in a page of the documentation, so that what the page says is what happens.

What is run, by the language of the fence:

- ``python`` with prompts (``>>>``): each example gives what stands below it. The examples of a page are one session.
- ``python`` without: a script. One that begins with an import is a script of its own; any other goes on where the last
  one ended, as the cells of a notebook do. What stands behind ``print(...)  #`` is what it prints, and so is a
  ``text`` block right below it (``...`` stands for anything).
- ``python`` with a ``:caption:``: a file of that name, too, in the folder where the page is run.
- ``sh``: its lines that begin with ``python -m parallelkit``. All others (``pip``, ``make``, ...) are not run.

A block below a comment ``<!-- not run: why -->`` has to compile and is not run.
"""

import contextlib
import doctest
import importlib
import io
import re
import shlex
import subprocess
import sys
import types
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>```+|:::+)(?:\{code-block\} *)?(?P<language>\w*)[^\n]*\n"
    r"(?P<text>.*?)^ *(?P=ticks) *$",
    re.DOTALL | re.MULTILINE,
)
CAPTION = re.compile(r"\A *:caption: *(\S+)\n\n?")
NOT_RUN = re.compile(r"<!-- not run: [^>]+ -->\s*\Z")
# A comment in words says something else than what is printed.
PRINTED = re.compile(r"^ *print\(.*\)  # ([\[({\d'\"-].*|True|False|None)$", re.MULTILINE)
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


@dataclass
class Block:
    """A block of code, and the output that stands below it."""

    language: str
    text: str
    line: int
    caption: str | None = None
    run: bool = True
    output: str | None = None

    @property
    def is_session(self):
        return self.language == "python" and ">>> " in self.text

    @property
    def is_new(self):
        """Whether a script begins here, rather than going on."""
        return re.match(r"(import|from) ", next(self._code(), "")) is not None

    def _code(self):
        return (line for line in self.text.splitlines() if line and not line.startswith("#"))


def blocks(text):
    """All blocks of code in a page, in order."""
    found, end = [], 0
    for match in FENCE.finditer(text):
        between = text[end : match.start()]
        language, content = match["language"], match["text"]
        end = match.end()
        if language == "text" and found and not between.strip() and found[-1].output is None:
            found[-1].output = content
            continue
        if language not in ("python", "sh"):
            continue
        caption = CAPTION.match(content)
        line = text.count("\n", 0, match.start("text"))
        if caption:
            line += content[: caption.end()].count("\n")
            content = content[caption.end() :]
        found.append(
            Block(
                language,
                content,
                line,
                caption[1] if caption else None,
                not NOT_RUN.search(between),
            )
        )
    return found


class Missing(Exception):
    """An optional package that a block needs is not installed."""


class Page:
    """One page, run in the present folder."""

    def __init__(self, path, monkeypatch):
        self.path = path
        self.blocks = blocks(path.read_text(encoding="utf-8"))
        self._monkeypatch = monkeypatch
        self._main = None
        self._session = None
        self.missing = set()

    def run(self):
        """Run all blocks; what each script has left in ``result`` is in ``results``."""
        self.results = [self._run(block) for block in self.blocks]

    def _run(self, block):
        if not block.run:
            if block.language == "python" and not block.is_session:
                compile(block.text, str(self.path), "exec")
            return None
        try:
            if block.language == "sh":
                return self._shell(block)
            if self.missing and self._goes_on(block):
                return None  # with names that were not made
            return self._doctest(block) if block.is_session else self._script(block)
        except ModuleNotFoundError as error:
            if error.name.partition(".")[0] not in OPTIONAL:
                raise
            self.missing.add(error.name)
            self._main = self._session = None
            return None

    def _goes_on(self, block):
        if block.is_session:
            return self._session is None
        return self._main is None and not (block.is_new or block.caption)

    def _new_main(self):
        main = types.ModuleType("__main__")
        self._monkeypatch.setitem(sys.modules, "__main__", main)
        return main

    def _script(self, block):
        if self._main is None or block.is_new or block.caption:
            self._main = self._new_main()
            self._file = Path(block.caption or "script.py").resolve()
            self._file.write_text(block.text, encoding="utf-8")
            self._main.__file__ = str(self._file)
        else:
            self._monkeypatch.setitem(sys.modules, "__main__", self._main)
        # A traceback shows the line of the page.
        code = compile("\n" * block.line + block.text, str(self.path), "exec")
        if block.caption:
            importlib.invalidate_caches()
            sys.modules.pop(self._file.stem, None)
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(code, vars(self._main))
        if block.output is not None:
            self._check(block, block.output, printed.getvalue())
        lines = iter(printed.getvalue().splitlines())
        for expected in PRINTED.findall(block.text):
            assert expected in lines, (
                f"{self.path}, line {block.line}: {expected!r} is missing in\n{printed.getvalue()}"
            )
        return vars(self._main).get("result")

    def _doctest(self, block):
        if self._session is None:
            self._session = self._new_main()
        self._monkeypatch.setitem(sys.modules, "__main__", self._session)
        test = doctest.DocTestParser().get_doctest(
            block.text, vars(self._session), self.path.stem, str(self.path), block.line
        )
        said = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=FLAGS)
        # `clear_globs` off: the next block goes on with the names of this one.
        failed, tried = runner.run(test, out=said.write, clear_globs=False)
        vars(self._session).update(test.globs)
        assert tried and not failed, said.getvalue()

    def _shell(self, block):
        lines = block.text.replace("\\\n", " ").splitlines()
        printed = ""
        for line in lines:
            words = shlex.split(line, comments=True)
            if words[:3] != ["python", "-m", "parallelkit"]:
                continue
            done = subprocess.run(
                [sys.executable, *words[1:]], capture_output=True, text=True, timeout=60
            )
            assert done.returncode == 0, f"{self.path}: {line}\n{done.stdout}{done.stderr}"
            printed += done.stdout
        if block.output is not None:
            self._check(block, block.output, printed)

    def _check(self, block, expected, printed):
        assert doctest.OutputChecker().check_output(expected, printed, FLAGS), (
            f"{self.path}, line {block.line}: prints\n{printed}\nand not\n{expected}"
        )


# What a page may ask for and `pip install parallelkit[test]` does not bring.
OPTIONAL = {
    "celery",
    "fastapi",
    "httpx",
    "optuna",
    "polars",
    "pyarrow",
    "dask",
    "distributed",
    "ray",
}
