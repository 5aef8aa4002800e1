"""Random file trees within the limits of the format, for property tests."""

from __future__ import annotations

import dataclasses
import stat
from random import Random

from hypothesis import strategies as st

from tests.support.trees import (
    Entry,
    block_device,
    char_device,
    directory,
    fifo,
    file,
    hardlink,
    paths,
    socket,
    symlink,
    tree,
)

# Each draw costs as much as writing a small image, so names and attributes come from lists of telling values.
# Names that sort around the dots, prefixes of each other, bytes that are no UTF-8, and long ones.
names = st.one_of(
    st.sampled_from(
        (
            *(b"a", b"aa", b"a!", b"a.", b"b", b"!", b"-", b"...", b"..a", b".-", b".a", b"0", b" ", b"\n"),
            *(b"\xff", b"\xff\xff", b"\xc3(", "é".encode(), b"\x01", b"%41"),
        )
    ),
    st.integers(1, 255).map(lambda size: b"n" * size),
)

_attribute_names = st.sampled_from(
    (
        *(b"user.a", b"user.b", b"user." + b"n" * 250, b"trusted.t", b"trusted.\xff", b"security.s"),
        *(b"system.posix_acl_access", b"system.posix_acl_default"),
    )
)
_values = st.one_of(
    st.sampled_from([b"", b"v", b"\0\xff"]), st.integers(0, 4200).map(lambda size: b"v" * size)
)
_no_xattrs: dict[bytes, bytes] = {}
_xattrs = st.one_of(st.just(_no_xattrs), st.dictionaries(_attribute_names, _values, max_size=3))
# 2**32 - 1 is no owner to the kernel: it shows 65534 then.
_owners = st.sampled_from(
    [(0, 0), (1000, 1000), (65534, 65535), (65536, 70_000), ((1 << 32) - 2, (1 << 32) - 2)]
)
_times = st.sampled_from(
    (
        *((0, 0), (1_700_000_000, 999_999_999), (-1, 1), (-(10**10), 500_000_000), (1 << 33, 0)),
        *((-(1 << 63), 0), ((1 << 63) - 1, 0)),
    )
)


@st.composite
def _attributes(draw: st.DrawFn, entry: Entry) -> Entry:
    permissions, (uid, gid), (mtime, mtime_ns) = draw(st.integers(0, 0o7777)), draw(_owners), draw(_times)
    mode = entry.mode if stat.S_ISLNK(entry.mode) else stat.S_IFMT(entry.mode) | permissions
    return dataclasses.replace(
        entry, mode=mode, uid=uid, gid=gid, mtime=mtime, mtime_ns=mtime_ns, xattrs=draw(_xattrs)
    )


_sizes = st.one_of(st.sampled_from([0, 1, 4095, 4096, 4097, 8192, 12_289]), st.integers(0, 20_000))
_contents = st.one_of(
    st.builds(lambda size, seed: Random(seed).randbytes(size), _sizes, st.integers(0, 2)),
    st.builds(lambda size: b"z" * size, _sizes),
)
_targets = st.one_of(
    st.sampled_from([b"a", b"../b", b"/\xff//.", b" "]),
    st.sampled_from([1, 4031, 4032, 4033, 4095]).map(lambda size: b"t" * size),
)
_leaves = st.one_of(
    st.builds(file, names, _contents, blob=st.integers(0, 2)),
    st.builds(symlink, names, _targets),
    st.builds(fifo, names),
    st.builds(socket, names),
    st.builds(char_device, names, st.integers(0, 4095), st.integers(0, (1 << 20) - 1)),
    st.builds(block_device, names, st.integers(0, 4095), st.integers(0, (1 << 20) - 1)),
).flatmap(_attributes)


def _directories(children: st.SearchStrategy[Entry]) -> st.SearchStrategy[Entry]:
    def made(name: bytes, entries: list[Entry]) -> Entry:
        return directory(name, *entries)

    unique = st.lists(children, max_size=5, unique_by=lambda entry: entry.name)
    return st.builds(made, names, unique).flatmap(_attributes)


@st.composite
def trees(draw: st.DrawFn) -> Entry:
    """A root directory with anything below it, hard links among them."""
    entries = st.recursive(_leaves, _directories, max_leaves=10)
    root = draw(_attributes(tree(*draw(st.lists(entries, max_size=5, unique_by=lambda entry: entry.name)))))
    others = [path for path, entry in paths(root) if not stat.S_ISDIR(entry.mode)]
    if not others:
        return root
    taken = {entry.name for entry in root.children}
    links = draw(
        st.lists(st.builds(hardlink, names, st.sampled_from(others)), max_size=3, unique_by=lambda e: e.name)
    )
    return dataclasses.replace(root, children=root.children + tuple(e for e in links if e.name not in taken))
