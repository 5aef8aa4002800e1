"""Random file trees within the limits of the format, for property tests."""

from __future__ import annotations

import dataclasses
import stat
from collections.abc import Callable
from random import Random
from typing import Any

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


_Attributes = tuple[int, tuple[int, int], tuple[int, int], dict[bytes, bytes]]


def _with(made: tuple[Entry, _Attributes]) -> Entry:
    entry, (permissions, (uid, gid), (mtime, mtime_ns), xattrs) = made
    mode = entry.mode if stat.S_ISLNK(entry.mode) else stat.S_IFMT(entry.mode) | permissions
    return dataclasses.replace(
        entry, mode=mode, uid=uid, gid=gid, mtime=mtime, mtime_ns=mtime_ns, xattrs=xattrs
    )


def _described(entries: st.SearchStrategy[Entry]) -> st.SearchStrategy[Entry]:
    """With random attributes. Not by `flatmap`, which makes a strategy anew for each entry."""
    return st.tuples(entries, st.tuples(st.integers(0, 0o7777), _owners, _times, _xattrs)).map(_with)


_sizes = st.one_of(st.sampled_from([0, 1, 4095, 4096, 4097, 8192, 12_289]), st.integers(0, 20_000))
_contents = st.one_of(
    st.tuples(_sizes, st.integers(0, 2)).map(lambda drawn: Random(drawn[1]).randbytes(drawn[0])),
    _sizes.map(lambda size: b"z" * size),
)
_targets = st.one_of(
    st.sampled_from([b"a", b"../b", b"/\xff//.", b" "]),
    st.sampled_from([1, 4031, 4032, 4033, 4095]).map(lambda size: b"t" * size),
)
def _made(make: Callable[..., Entry], *parts: st.SearchStrategy[Any]) -> st.SearchStrategy[Entry]:
    return st.tuples(*parts).map(lambda drawn: make(*drawn))


_numbers = (st.integers(0, 4095), st.integers(0, (1 << 20) - 1))
_leaves = _described(
    st.one_of(
        _made(
            lambda name, content, blob: file(name, content, blob=blob), names, _contents, st.integers(0, 2)
        ),
        _made(symlink, names, _targets),
        _made(fifo, names),
        _made(socket, names),
        _made(char_device, names, *_numbers),
        _made(block_device, names, *_numbers),
    )
)


def _folder_of(children: st.SearchStrategy[Entry]) -> st.SearchStrategy[list[Entry]]:
    return st.lists(children, max_size=5, unique_by=lambda entry: entry.name)


def _directories(children: st.SearchStrategy[Entry]) -> st.SearchStrategy[Entry]:
    return _described(_made(lambda name, entries: directory(name, *entries), names, _folder_of(children)))


_roots = _described(
    _folder_of(st.recursive(_leaves, _directories, max_leaves=10)).map(lambda entries: tree(*entries))
)


@st.composite
def trees(draw: st.DrawFn) -> Entry:
    """A root directory with anything below it, hard links among them."""
    root = draw(_roots)
    others = [path for path, entry in paths(root) if not stat.S_ISDIR(entry.mode)]
    if not others:
        return root
    taken = {entry.name for entry in root.children}
    links = draw(_folder_of(_made(hardlink, names, st.sampled_from(others))))
    return dataclasses.replace(root, children=root.children + tuple(e for e in links if e.name not in taken))
