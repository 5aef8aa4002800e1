"""The tests' own language for trees."""

from __future__ import annotations

import io
import stat
import tarfile

from rafs.tree import walk
from tests.support.trees import (
    char_device,
    directory,
    expected,
    fifo,
    file,
    hardlink,
    layer_tar,
    node_tree,
    opaque,
    symlink,
    tree,
    whiteout,
)

TREE = tree(
    file(b"a", b"bytes", mode=0o4755, uid=70_000, gid=3_000_000, mtime=-3, mtime_ns=250_000_000),
    directory(b"d\xff", fifo(b"p"), char_device(b"null", 1, 3), mode=0o700, mtime=5_000_000_000),
    symlink(b"s", b"d\xff/p"),
    hardlink(b"z", to=b"/a"),
    file(b"x", xattrs={b"user.k": b"\xff\x00"}),
)


def test_a_tree_becomes_a_tar_that_tarfile_reads_back() -> None:
    raw = layer_tar([TREE, whiteout(b"gone"), directory(b"o", opaque())])
    with tarfile.open(fileobj=io.BytesIO(raw), errors="surrogateescape") as archive:
        members = {member.name: member for member in archive}
        content = archive.extractfile("a")
        assert content is not None
        assert content.read() == b"bytes"
    names = [".", "a", "d\udcff", "d\udcff/p", "d\udcff/null", "s", "z", "x", ".wh.gone", "o"]
    assert list(members) == [*names, "o/.wh..wh..opq"]
    a = members["a"]
    assert (a.mode, a.uid, a.gid, a.mtime) == (0o4755, 70_000, 3_000_000, -2.75)
    assert (members["d\udcff"].mode, members["d\udcff"].mtime) == (0o700, 5_000_000_000)
    null = members["d\udcff/null"]
    assert (null.ischr(), null.devmajor, null.devminor) == (True, 1, 3)
    assert (members["z"].islnk(), members["z"].linkname) == (True, "a")
    assert members["s"].linkname == "d\udcff/p"
    assert members["x"].pax_headers["SCHILY.xattr.user.k"].encode("utf-8", "surrogateescape") == b"\xff\x00"


def test_a_tree_becomes_nodes_whose_hard_links_are_one_node() -> None:
    root = node_tree(TREE, lambda entry: (len(entry.content),))
    nodes = dict(walk(root))
    assert nodes[b"/z"] is nodes[b"/a"]
    assert (nodes[b"/a"].size, nodes[b"/a"].chunks) == (5, (5,))
    assert nodes[b"/x"].xattrs == {b"user.k": b"\xff\x00"}
    assert nodes[b"/d\xff"].children == {b"p": nodes[b"/d\xff/p"], b"null": nodes[b"/d\xff/null"]}


def test_what_a_mount_must_show_counts_links() -> None:
    shown = expected(TREE)
    assert {path: seen.nlink for path, seen in shown.items() if seen.nlink != 1} == {
        b"/": 3,
        b"/a": 2,
        b"/z": 2,
        b"/d\xff": 2,
    }
    assert (shown[b"/z"].content, shown[b"/z"].inode_of) == (b"bytes", b"/a")
    assert shown[b"/d\xff/null"].rdev == (1, 3)
    assert stat.S_ISLNK(shown[b"/s"].mode)
