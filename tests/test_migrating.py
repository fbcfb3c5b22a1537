"""The migration pages: each pair of code blocks gives the same, the peer's way and ours.

A page is ``docs/migrating/<peer>.md``, named as its package is imported (an
underscore may stand for a dot). Each of its sections has two
Python blocks, before and after, which leave what they found in ``result``; or none.
"""

import importlib.util
import re
import sys
import types
import warnings
from pathlib import Path

import numpy as np
import pytest

PAGES = Path(__file__).parents[1] / "docs" / "migrating"
SECTION = re.compile(r"^## ", re.MULTILINE)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections():
    for page in sorted(PAGES.glob("*.md")):
        for text in SECTION.split(page.read_text())[1:]:
            title = text.splitlines()[0]
            blocks = BLOCK.findall(text)
            if blocks:
                yield pytest.param(page.stem, blocks, id=f"{page.stem}: {title}")


@pytest.fixture
def run(monkeypatch):
    """Run a block as a script would run, and give its result."""

    def run(block, title):
        main = types.ModuleType("__main__")
        monkeypatch.setitem(sys.modules, "__main__", main)
        exec(compile(block, f"<{title}>", "exec"), vars(main))
        assert hasattr(main, "result"), f"the block leaves no result:\n{block}"
        return main.result

    return run


@pytest.fixture(scope="module", autouse=True)
def end_their_workers():
    """What a peer leaves running is not for the checks of ours."""
    yield
    if "joblib.externals.loky" in sys.modules:
        sys.modules["joblib.externals.loky"].get_reusable_executor().shutdown(kill_workers=True)


def installed(peer):
    return any(found(package) for package in (peer, peer.replace("_", ".")))


def found(package):
    try:
        return importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:  # the parent of a submodule
        return False


@pytest.mark.parametrize(("peer", "blocks"), list(sections()))
def test_both_sides_give_the_same(peer, blocks, run, capfd):
    """What is written on the right does what is written on the left."""
    if not installed(peer):
        pytest.skip(f"{peer} is not installed")
    assert len(blocks) == 2, "a section has two blocks: before, after"
    before, after = blocks
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of theirs
        expected = run(before, "before")
    np.testing.assert_equal(run(after, "after"), expected)


def test_pages_have_sections():
    """No page is left out because its form is not understood."""
    for page in PAGES.glob("*.md"):
        assert any(param.values[0] == page.stem for param in sections()), page
