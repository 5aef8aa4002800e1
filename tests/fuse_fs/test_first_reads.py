"""The order of first reads: each file once, bounded, and honest about what it left out."""

from __future__ import annotations

import pytest

from fuse_fs import first_reads
from fuse_fs.first_reads import FirstReads


def test_each_inode_is_listed_once_by_the_name_that_came_first() -> None:
    reads = FirstReads()
    for number, path in ((7, b"/b"), (3, b"/a"), (7, b"/other name of b"), (3, b"/a")):
        reads.note(number, path, number)
    assert [(one.path, one.size) for one in reads.listed()] == [(b"/b", 7), (b"/a", 3)]
    assert not reads.full


@pytest.mark.parametrize(("limit", "value"), [("FILES_KEPT", 10), ("PATH_BYTES_KEPT", 50)])
def test_a_full_list_says_so_and_grows_no_more(
    monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(first_reads, limit, value)
    reads = FirstReads()
    for number in range(100):
        assert reads.full == (number >= 10)
        reads.note(number, b"/%04d" % number, 1)
    assert len(reads.listed()) == 10
