"""The order of first reads: each file once, bounded, and honest about what it left out."""

from __future__ import annotations

import pytest

from fuse_fs import first_reads
from fuse_fs.first_reads import FirstReads
from rafs.bootstrap import Nid


def test_each_inode_is_listed_once_in_the_order_of_first_reads() -> None:
    reads = FirstReads()
    for number in (7, 3, 7, 3):
        reads.note(Nid(number))
    assert [one.nid for one in reads.listed()] == [7, 3]
    assert not reads.full


def test_a_full_list_says_so_and_grows_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_reads, "FILES_KEPT", 10)
    reads = FirstReads()
    for number in range(100):
        assert reads.full == (number >= 10)
        reads.note(Nid(number))
    assert len(reads.listed()) == 10
