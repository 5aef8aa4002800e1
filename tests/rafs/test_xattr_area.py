"""Extended attributes as bytes behind an inode."""

from __future__ import annotations

import pytest

from rafs.tree import PlanInvalid
from rafs.xattr_area import can_hold, pack_xattrs, xattr_icount


def test_no_xattrs_take_no_bytes() -> None:
    assert pack_xattrs(None) == pack_xattrs({}) == b""
    assert xattr_icount(b"") == 0


def test_entries_are_sorted_by_name_and_padded() -> None:
    area = pack_xattrs({b"user.b": b"12345", b"trusted.a": b"", b"system.posix_acl_access": b"acl"})
    assert area == (
        bytes(12)
        + b"\x00\x02\x03\x00acl\0"
        + b"\x01\x04\x00\x00a\0\0\0"
        + b"\x01\x01\x05\x00b12345\0\0"
    )  # fmt: skip
    assert xattr_icount(area) == (len(area) - 12) // 4 + 1


@pytest.mark.parametrize(
    "name",
    [
        b"user.a",
        b"user." + b"n" * 250,
        b"trusted.overlay.x",
        b"security.capability",
        b"system.posix_acl_default",
    ],
)
def test_names_with_a_place_are_held(name: bytes) -> None:
    assert can_hold(name)
    assert pack_xattrs({name: b"v"})


@pytest.mark.parametrize(
    "name",
    [
        b"",
        b"user.",
        b"user",
        b"user." + b"n" * 251,
        b"user.a\0b",
        b"system.posix_acl_accessory",
        b"system.nfs4_acl",
        b"lustre.x",
        b"com.apple.quarantine",
    ],
)
def test_names_without_a_place_are_refused(name: bytes) -> None:
    assert not can_hold(name)
    with pytest.raises(PlanInvalid, match="not storable"):
        pack_xattrs({name: b"v"})


def test_a_value_of_64_kib_is_refused() -> None:
    with pytest.raises(PlanInvalid, match="65536 bytes"):
        pack_xattrs({b"user.a": bytes(65536)})


def test_more_than_the_inode_can_count_is_refused() -> None:
    # Four entries of 65 532 bytes after the header of 12 make 262 140; the count ends at 262 148.
    almost = {b"user.%d" % number: bytes(65527) for number in range(4)}
    assert xattr_icount(pack_xattrs({**almost, b"user.x": b"1"})) == 65535
    with pytest.raises(PlanInvalid, match="room for 262148"):
        pack_xattrs({**almost, b"user.x": b"1234"})
