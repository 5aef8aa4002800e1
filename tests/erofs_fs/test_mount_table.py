"""The mount table is read as the kernel writes it, whatever letters a path has."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from erofs_fs import namespace
from erofs_fs.mount_table import MountEntry, mount_table, overlay_lowers
from fuse_fs.mount_options import FUSE_TYPE


def test_each_line_is_a_mount_with_what_is_known_of_it(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"36 35 98:0 /sub /m rw,noatime master:1 - ext3 /dev/root rw,errors=continue\n"
        b"37 35 0:52 / /n ro,relatime shared:9 propagate_from:2 - fuse.nopull nopull:x ro\n"
        b"38 35 0:53 / /o rw - tmpfs  rw\n"
    )
    assert mount_table(table) == [
        MountEntry(Path("/m"), "/sub", "98:0", "ext3", "/dev/root", "rw,errors=continue"),
        MountEntry(Path("/n"), "/", "0:52", "fuse.nopull", "nopull:x", "ro"),
        MountEntry(Path("/o"), "/", "0:53", "tmpfs", "", "rw"),
    ]


@pytest.mark.parametrize(
    ("written", "path"),
    [
        (rb"/a\040b", b"/a b"),
        (rb"/tab\011newline\012backslash\134", b"/tab\tnewline\nbackslash\\"),
        (rb"/\134040", rb"/\040"),  # a backslash and three digits of the name's own
        (b"/no text \xff".replace(b" ", rb"\040"), b"/no text \xff"),
        # Ends of lines to others than the kernel, which writes them as they are.
        (b"/a\rb\x0bc\x0cd\x1ce\xc2\x85f", b"/a\rb\x0bc\x0cd\x1ce\xc2\x85f"),
    ],
)
def test_a_mountpoint_is_given_as_it_is(tmp_path: Path, written: bytes, path: bytes) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(b"36 35 98:0 / " + written + b" rw - ext3 /dev/a rw\n37 35 98:1 / /m rw - ext3 /b rw\n")
    assert [os.fsencode(entry.mountpoint) for entry in mount_table(table)] == [path, b"/m"]


@pytest.mark.parametrize(
    ("options", "lowers"),
    [
        ("rw,lowerdir=/a:/b,upperdir=/c,workdir=/d", ["/a", "/b"]),
        ("rw,lowerdir+=/a,lowerdir+=/b,datadir+=/e", ["/a", "/b"]),
        ("lowerdir=/a\\:b:/c\\,d\\\\,upperdir=/lowerdir=/x", ["/a:b", "/c,d\\"]),
        ("rw,upperdir=/c", []),
    ],
)
def test_an_overlay_tells_what_it_was_made_of(options: str, lowers: list[str]) -> None:
    entry = MountEntry(Path("/m"), "/", "0:5", "overlay", "overlay", options)
    assert overlay_lowers(entry) == lowers


def test_our_own_table_has_the_root() -> None:
    assert Path("/") in {entry.mountpoint for entry in mount_table()}


def test_a_mount_of_the_other_driver_is_known_by_the_type_it_has() -> None:
    assert namespace.FUSE_TYPE == FUSE_TYPE
