"""Every record keeps its bytes, and no outside byte or value leaves this layer as an untyped error."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafs import records
from rafs.errors import FormatInvalid
from rafs.records import DIRENT, INODE_EXTENDED, Dirent, InodeExtended, Layout

LAYOUTS: dict[str, Layout[Any]] = {
    name: value for name, value in vars(records).items() if isinstance(value, Layout)
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@given(st.integers(0, 1 << 32))
def test_bytes_survive_reading_and_writing(layout: Layout[Any], seed: int) -> None:
    raw = Random(seed).randbytes(layout.size)
    assert layout.pack(layout.unpack(raw)) == raw


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("offset", [-1, 1, 1 << 70])
def test_a_record_outside_the_bytes_is_a_typed_error(layout: Layout[Any], offset: int) -> None:
    with pytest.raises(FormatInvalid, match=r"needs \d+ bytes"):
        layout.unpack(bytes(layout.size), offset)


def test_a_table_must_be_whole_records() -> None:
    table = DIRENT.pack(Dirent(nid=1)) + DIRENT.pack(Dirent(nid=2))
    assert [entry.nid for entry in DIRENT.unpack_all(table)] == [1, 2]
    with pytest.raises(FormatInvalid, match="not a multiple of 12"):
        DIRENT.unpack_all(table + b"\0")


def test_a_value_too_large_for_its_field_is_a_typed_error() -> None:
    with pytest.raises(FormatInvalid, match="does not fit"):
        DIRENT.pack(Dirent(name_offset=1 << 16))


def test_fields_lie_where_the_worked_example_has_them() -> None:
    raw = bytes.fromhex(
        "0900 0000 a481 0000 2342000000000000 28000000 02000000 00000000 00000000"
        "613cf26300000000 569c7825 01000000 00000000000000000000000000000000"
    )
    assert INODE_EXTENDED.unpack(raw) == InodeExtended(
        i_format=9,
        mode=0o100644,
        size=16931,
        i_u=0x28,
        ino=2,
        mtime=1676819553,
        mtime_nsec=628661334,
        nlink=1,
        reserved2=bytes(16),
    )


def test_times_before_1970_are_negative() -> None:
    assert INODE_EXTENDED.unpack(INODE_EXTENDED.pack(InodeExtended(mtime=-5))).mtime == -5
