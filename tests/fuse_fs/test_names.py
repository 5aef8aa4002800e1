"""Paths for inode numbers: the right one, and something to show where there is none."""

from __future__ import annotations

from fuse_fs.names import Names
from rafs.bootstrap import Bootstrap, Nid
from tests.fuse_fs.test_tree import EVERYTHING
from tests.support.bootstrap_edits import Editor
from tests.support.images import image_of
from tests.support.trees import directory, expected, file, tree


def test_every_inode_has_a_path_that_leads_to_it() -> None:
    bootstrap = Bootstrap(image_of(EVERYTHING).bootstrap)
    known = {path: inode.nid for path, inode in bootstrap.walk()}
    names = Names(bootstrap)
    assert set(known) == set(expected(EVERYTHING))
    for nid, path in zip(known.values(), names.paths(known.values()), strict=True):
        assert known[path] == nid
    assert names.paths([Nid(10**9)]) == [b"<inode 1000000000>"]


def test_a_broken_directory_costs_only_the_names_in_it() -> None:
    raw = image_of(tree(directory(b"broken", file(b"lost")), file(b"other"))).bootstrap
    before = Bootstrap(raw)
    nids = {path: inode.nid for path, inode in before.walk()}
    editor = Editor(raw)
    editor.inode(b"/broken", i_format=7)
    names = Names(Bootstrap(bytes(editor.raw)))
    assert names.paths([nids[b"/other"], nids[b"/broken/lost"]]) == [
        b"/other",
        b"<inode %d>" % nids[b"/broken/lost"],
    ]
