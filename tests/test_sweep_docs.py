"""Every Python example in docs/sweeps.md runs, as the script that a reader would make of it."""

import re
from pathlib import Path

import pytest

TEXT = (Path(__file__).parents[1] / "docs" / "sweeps.md").read_text(encoding="utf-8")
BLOCKS = re.findall(
    r"^#+ ([^\n]*)\n(?:(?!^#).)*?^```python\n(.*?)^```", TEXT, re.DOTALL | re.MULTILINE
)


def test_all_examples_are_found():
    """There are as many as blocks of Python in the text."""
    assert len(BLOCKS) == TEXT.count("```python") == 5


@pytest.mark.parametrize(("title", "source"), BLOCKS, ids=[title for title, _ in BLOCKS])
def test_an_example_runs(title, source, script):
    """It prints something, and its own assertions hold."""
    for package in ("sklearn", "optuna"):
        if f"import {package}" in source or f"from {package}" in source:
            pytest.importorskip(package)
    assert script(source, files=False).out.strip(), title
