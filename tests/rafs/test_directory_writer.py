"""Directory streams: dirents and names in blocks."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from rafs.directory_writer import directory_size, pack_directory

name_lists = st.lists(
    st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name), max_size=80
).map(lambda names: sorted({b".", b"..", *names}))


def entries(stream: bytes) -> list[tuple[bytes, int, int]]:
    """Decoded as the format says: a block's first name offset tells how many entries it has."""
    found = []
    for start in range(0, len(stream), 4096):
        block = stream[start : start + 4096]
        count = struct.unpack_from("<H", block, 8)[0] // 12
        dirents = [struct.unpack_from("<QHBB", block, 12 * index) for index in range(count)]
        ends = [offset for _, offset, _, _ in dirents[1:]] + [len(block)]
        for (nid, offset, kind, _), end in zip(dirents, ends, strict=True):
            found.append((block[offset:end].split(b"\0")[0], nid, kind))
    return found


@given(name_lists)
def test_every_name_comes_back_and_the_size_is_known_beforehand(names: list[bytes]) -> None:
    nids, types = range(1 << 40, (1 << 40) + len(names)), [1 + index % 7 for index in range(len(names))]
    stream = pack_directory(names, nids, types)
    assert len(stream) == directory_size(names)
    assert entries(stream) == list(zip(names, nids, types, strict=True))


def test_a_block_is_filled_to_its_last_byte_before_the_next_begins() -> None:
    # ".", ".." and 15 names: 13 + 14 + 15 * (12 + 255) = 4032 bytes; 64 are left, which is a name of 52.
    names = sorted([b".", b"..", *(b"%02d" % number + b"n" * 253 for number in range(15))])
    assert directory_size([*names, b"z" * 52]) == 4096
    assert directory_size([*names, b"z" * 53]) == 4096 + 12 + 53


def test_the_smallest_directory_has_two_entries() -> None:
    assert pack_directory([b".", b".."], [128, 128], [2, 2]) == (
        struct.pack("<QHBB", 128, 24, 2, 0) + struct.pack("<QHBB", 128, 25, 2, 0) + b"..."
    )
