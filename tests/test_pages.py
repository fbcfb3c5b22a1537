"""The documentation: all code in it runs and gives what stands there. How: ``pages.py``."""

import re
import sys
import warnings

import numpy as np
import pages
import pytest

EVERY = sorted(
    page
    for page in [*pages.DOCS.rglob("*.md"), pages.ROOT / "README.md"]
    if "_build" not in page.parts and pages.blocks(page.read_text(encoding="utf-8"))
)
MIGRATING = pages.DOCS / "migrating"


def name(page):
    return page.relative_to(pages.ROOT).with_suffix("").as_posix().removeprefix("docs/")


@pytest.fixture(scope="module", autouse=True)
def end_their_workers():
    """What a peer leaves running is not for the checks of ours."""
    yield
    if "joblib.externals.loky" in sys.modules:
        sys.modules["joblib.externals.loky"].get_reusable_executor().shutdown(kill_workers=True)


@pytest.mark.parametrize("path", EVERY, ids=name)
def test_what_stands_there_is_what_happens(path, monkeypatch, tmp_path):
    """All blocks of a page run; on a migration page, what is written before and after gives the same."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    page = pages.Page(path, monkeypatch)
    with warnings.catch_warnings():
        if path.parent == MIGRATING:
            warnings.simplefilter("ignore")  # of theirs
        page.run()
    if page.missing:
        pytest.skip(f"not installed: {', '.join(sorted(page.missing))}")
    if path.parent == MIGRATING:
        for before, after in pairs(page):
            np.testing.assert_equal(after, before)


def pairs(page):
    """The results of the two blocks of each section: before, after."""
    text = page.path.read_text(encoding="utf-8")
    starts = [
        text.count("\n", 0, match.start()) for match in re.finditer("^## ", text, re.MULTILINE)
    ]
    for begin, end in zip(starts, [*starts[1:], text.count("\n")], strict=True):
        both = [
            result
            for block, result in zip(page.blocks, page.results, strict=True)
            if begin <= block.line <= end and block.run and block.language == "python"
        ]
        assert len(both) in (0, 2), f"{page.path}, line {begin}: a section has two blocks"
        if both:
            assert all(result is not None for result in both), (page.path, begin)
            yield both
