"""The file tree given to a writer."""

from __future__ import annotations

import os
import stat
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs.tree import Node, PlanInvalid, chunk_ref, device_number, split_device_number, split_ref, walk


@given(st.integers(0, (1 << 40) - 1), st.integers(0, (1 << 24) - 1))
def test_a_chunk_reference_keeps_both_of_its_parts(blob_key: int, index: int) -> None:
    reference = chunk_ref(blob_key, index)
    assert split_ref(reference) == (blob_key, index)
    assert reference < 1 << 64


@given(st.integers(0, (1 << 12) - 1), st.integers(0, (1 << 20) - 1))
def test_device_numbers_are_the_low_half_of_the_c_library_s(major: int, minor: int) -> None:
    assert device_number(major, minor) == os.makedev(major, minor) & 0xFFFF_FFFF
    assert split_device_number(device_number(major, minor)) == (major, minor)


@pytest.mark.parametrize(("major", "minor"), [(1 << 12, 0), (0, 1 << 20), (-1, 0)])
def test_device_numbers_with_too_many_bits_are_refused(major: int, minor: int) -> None:
    with pytest.raises(PlanInvalid, match="bits"):
        device_number(major, minor)


def test_walk_names_everything_parents_first_and_sorted() -> None:
    leaf = Node(stat.S_IFREG | 0o644)
    inner = Node(stat.S_IFDIR | 0o755, children={b"z": leaf, b"a": leaf})
    root = Node(stat.S_IFDIR | 0o755, children={b"e": leaf, b"d": inner})
    assert [path for path, _ in walk(root)] == [b"/", b"/d", b"/d/a", b"/d/z", b"/e"]


def test_a_node_takes_less_than_600_bytes_with_its_name_and_a_chunk() -> None:
    count = 20_000
    tracemalloc.start()
    try:
        root = Node(stat.S_IFDIR | 0o755)
        for number in range(count):
            root.children[b"some-usual-name-%d" % number] = Node(
                stat.S_IFREG | 0o644,
                mtime=1_700_000_000 + number,
                size=1000 + number,
                chunks=(chunk_ref(1, number),),
            )
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert used / count < 600
