"""Sizes in bytes, as people write them."""

import numpy as np
import pytest

from parallelkit.place.sizes import in_bytes


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
