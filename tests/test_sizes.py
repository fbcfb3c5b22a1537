"""Sizes in bytes, as people write them, and as values seem to have them."""

import numpy as np
import pytest

from parallelkit.place.sizes import in_bytes
from parallelkit.values.weight import weight


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("1", 1),
        ("7b", 7),
        ("1k", 1000),
        ("64 kB", 64_000),
        ("64KiB", 65_536),
        ("512 MiB", 512 << 20),
        ("512 mib", 512 << 20),
        ("1Gi", 1 << 30),
        ("1GB", 10**9),
        (" 1.5 GB ", 1_500_000_000),
        (".5KiB", 512),
        ("0.1 PB", 10**14),
        ("2 TiB", 2 << 40),
        ("9007199254740993", 2**53 + 1),
        (0, 0),
        (1, 1),
        (1 << 60, 1 << 60),
        (np.int64(12), 12),
    ],
)
def test_sizes(text, size):
    """Units of 1000 and of 1024, in any case, with or without a space or the B; and plain numbers."""
    got = in_bytes("size", text)
    assert got == size
    assert type(got) is int


@pytest.mark.parametrize(
    "wrong", ["", "GB", "1 gigabyte", "-1", "1,5 GB", "1iB", "1e9", "1 G B", "٣", "nan"]
)
def test_texts_that_are_no_size(wrong):
    """The error names the option and shows how a size is written."""
    with pytest.raises(ValueError, match="max_nbytes must be a number of bytes, or a text such as"):
        in_bytes("max_nbytes", wrong)


@pytest.mark.parametrize("wrong", [1.0, None, True, b"1GB", [1]])
def test_values_that_are_no_size(wrong):
    """A float is none: what 1e9 and what 1.5 mean would be a guess."""
    with pytest.raises(TypeError, match="max_nbytes must be a number of bytes"):
        in_bytes("max_nbytes", wrong)


@pytest.mark.parametrize("small", [0, "0 GB", -1, "0.4b"])
def test_too_small(small):
    with pytest.raises(ValueError, match="memory_limit must be at least 1 bytes"):
        in_bytes("memory_limit", small, least=1)


class Counted:
    """Something that notes how often it is asked for its size."""

    looks = 0

    @property
    def nbytes(self):
        """A thousand bytes."""
        Counted.looks += 1
        return 1000


@pytest.mark.parametrize("deep", [1, 2, 3])
def test_few_values_are_looked_at(monkeypatch, deep):
    """However they are nested, a look takes some microseconds; what is seen stands for the rest."""
    monkeypatch.setattr(Counted, "looks", 0)
    value = Counted()
    for _ in range(deep):
        value = [value] * 32
    assert 1000 * 32**deep <= weight(value) < 1100 * 32**deep
    assert Counted.looks < 100


def test_what_is_large_beside_others_is_seen():
    """A few values need not be alike: all of them are looked at, however long the first takes."""
    graph = {i: {j: {"weight": 1.0} for j in range(32)} for i in range(32)}
    assert weight((graph, np.zeros(1 << 17))) > 1 << 20
