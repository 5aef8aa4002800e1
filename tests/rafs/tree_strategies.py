"""Random file trees within the limits of the format, for property tests."""

from __future__ import annotations

import dataclasses
import stat

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

# Few bytes, and among them those that sort around the dots, so that names collide, nest and share prefixes.
_name_bytes = st.sampled_from([b"a", b"b", b".", b"-", b"!", b"0", b"\xff", b"\xc3", b"\n", b" "])
names = st.one_of(
    st.lists(_name_bytes, min_size=1, max_size=6).map(b"".join),
    st.integers(1, 255).map(lambda size: b"n" * size),
).filter(lambda name: name not in (b".", b".."))

_suffixes = st.binary(min_size=1, max_size=20).filter(lambda suffix: b"\0" not in suffix)
_xattrs = st.dictionaries(
    st.one_of(
        st.tuples(st.sampled_from([b"user.", b"trusted.", b"security."]), _suffixes).map(b"".join),
        st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default"]),
    ),
    st.one_of(st.binary(max_size=40), st.integers(0, 4200).map(lambda size: b"v" * size)),
    max_size=3,
)
# 2**32 - 1 is no owner to the kernel: it shows 65534 then.
_owners = st.one_of(st.integers(0, 2000), st.integers(0, (1 << 32) - 2))


@st.composite
def _attributes(draw: st.DrawFn, entry: Entry) -> Entry:
    permissions = draw(st.integers(0, 0o7777))
    return dataclasses.replace(
        entry,
        mode=entry.mode if stat.S_ISLNK(entry.mode) else stat.S_IFMT(entry.mode) | permissions,
        uid=draw(_owners),
        gid=draw(_owners),
        mtime=draw(st.one_of(st.integers(-(10**10), 10**10), st.just(-(1 << 63)), st.just((1 << 63) - 1))),
        mtime_ns=draw(st.sampled_from([0, 1, 500_000_000, 999_999_999])),
        xattrs=draw(_xattrs),
    )


_contents = st.one_of(
    st.binary(max_size=50),
    st.tuples(st.integers(0, 3 * 4096 + 1), st.binary(min_size=1, max_size=1)).map(
        lambda pair: pair[1] * pair[0]
    ),
)
_targets = st.one_of(
    st.binary(min_size=1, max_size=30).filter(lambda target: b"\0" not in target),
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

    unique = st.lists(children, max_size=8, unique_by=lambda entry: entry.name)
    return st.builds(made, names, unique).flatmap(_attributes)


@st.composite
def trees(draw: st.DrawFn) -> Entry:
    """A root directory with anything below it, hard links among them."""
    entries = st.recursive(_leaves, _directories, max_leaves=20)
    root = draw(_attributes(tree(*draw(st.lists(entries, max_size=8, unique_by=lambda entry: entry.name)))))
    others = [path for path, entry in paths(root) if not stat.S_ISDIR(entry.mode)]
    if not others:
        return root
    taken = {entry.name for entry in root.children}
    links = draw(
        st.lists(st.builds(hardlink, names, st.sampled_from(others)), max_size=3, unique_by=lambda e: e.name)
    )
    return dataclasses.replace(root, children=root.children + tuple(e for e in links if e.name not in taken))
