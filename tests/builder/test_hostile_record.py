"""Whatever lies in the destination's repository, the worst it can do is that layers are converted anew."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builder.bootstrap_layer_reader import BOOTSTRAP, RECORD
from builder.layer_record import decode, record_limit
from builder.layers.overlay import empty_tree
from builder.tree_check import check_tree
from builder.tree_undo import Undo, apply_undo
from rafs.tree import Node, chunk_ref
from tests.builder.layouts import Published, convert_layout, digest_of
from tests.builder.tar_bytes import END
from tests.builder.test_convert import SMALL
from tests.builder.test_reuse import LAST, add_image, convert_beside
from tests.support.bootstrap_edits import edited
from tests.support.trees import directory, file, layer_tar, tree, whiteout

BASE = layer_tar([tree(directory(b"d", file(b"in", b"in")), file(b"a", b"bytes"), file(b"gone", b"gone"))])
TOP = layer_tar([tree(whiteout(b"gone"), file(b"top", b"top"))])


def replaced(directory: Path, change: Callable[[dict[str, bytes]], None]) -> None:
    """Change the members of the bootstrap layer of the last image in *directory*."""
    image = Published(directory)
    files = dict(image.files)
    change(files)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    manifest = image.manifest
    manifest["layers"][-1] |= put(directory, gzip.compress(stream.getvalue(), 1))
    index = json.loads((directory / "index.json").read_text())
    index["manifests"][-1] |= put(directory, json.dumps(manifest).encode())
    (directory / "index.json").write_text(json.dumps(index))


def put(directory: Path, raw: bytes) -> dict[str, Any]:
    (directory / "blobs/sha256" / digest_of(raw)[7:]).write_bytes(raw)
    return {"digest": digest_of(raw), "size": len(raw)}


def with_entries(*entries: object) -> Callable[[dict[str, bytes]], None]:
    """The record says that these are to be put back when the upper layer is undone."""

    def change(files: dict[str, bytes]) -> None:
        document = json.loads(files[RECORD])
        document["layers"][1]["undo"]["entries"] += entries
        files[RECORD] = json.dumps(document).encode()

    return change


def entry(path: str, mode: int = 0o100644, *, size: int = 0, chunks: object = (), **fields: Any) -> object:
    numbers = [mode, *(fields.get(name, 0) for name in ("uid", "gid", "mtime", "mtime_ns", "rdev")), size]
    return [path, numbers, fields.get("target", ""), fields.get("xattrs", {}), chunks]


CHANGES = {
    "a link to the root": with_entries(["loop", ""]),
    "a link to a folder": with_entries(["d/loop", "d"]),
    "below a file": with_entries(entry("a/x")),
    "a file in the place of a folder": with_entries(entry("d")),
    "a folder in the place of a file": with_entries(entry("a", 0o040755)),
    "the root is a file": with_entries(entry("")),
    "no chunks": with_entries(entry("x", size=5)),
    "too many chunks": with_entries(entry("x", size=5, chunks=[[0, 0, 2]])),
    "a chunk of another size": with_entries(entry("x", size=4, chunks=[[0, 0, 1]])),
    "a blob that is not there": with_entries(entry("x", size=5, chunks=[[7, 0, 1]])),
    "the next layer's blob": with_entries(entry("x", size=3, chunks=[[1, 0, 1]])),
    "a chunk that is not there": with_entries(entry("x", size=5, chunks=[[0, 9999, 1]])),
    "chunks of a folder": with_entries(entry("x", 0o040755, size=5, chunks=[[0, 0, 1]])),
    "a negative owner": with_entries(entry("x", uid=-1)),
    "a large owner": with_entries(entry("x", gid=1 << 32)),
    "a time of 65 bits": with_entries(entry("x", mtime=1 << 63)),
    "nanoseconds": with_entries(entry("x", mtime_ns=10**9)),
    "a device": with_entries(entry("x", 0o020644, rdev=1 << 32)),
    "no type": with_entries(entry("x", 0o644)),
    "a large mode": with_entries(entry("x", 0o1100644)),
    "a long name": with_entries(entry("n" * 300)),
    "a name of dots": with_entries(entry("..")),
    "an empty name": with_entries(entry("d/")),
    "a NUL byte": with_entries(entry("d/\0")),
    "a link to nowhere": with_entries(entry("x", 0o120777)),
    "a long target": with_entries(entry("x", 0o120777, target="t" * 4096)),
    "large xattrs": with_entries(entry("x", xattrs={"user.a": "QUFB" * 30_000})),
    "an overlay's xattr": with_entries(entry("x", xattrs={"trusted.overlay.opaque": "eQ=="})),
    "an overlay's redirection": with_entries(entry("x", xattrs={"trusted.overlay.redirect": "eQ=="})),
    "a large record": lambda files: files.update({RECORD: files[RECORD] + b" " * (2 << 20)}),
    "a folder with two names": lambda files: files.update(
        {BOOTSTRAP: edited(files[BOOTSTRAP], lambda one: one.dirent(b"/", b"d", nid=one.inode_of(b"/").nid))}
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_an_odd_record_only_means_that_layers_are_converted_anew(tmp_path: Path, what: str) -> None:
    add_image(tmp_path / "first", [BASE, TOP])
    convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    replaced(tmp_path / "out", CHANGES[what])
    add_image(tmp_path / "second", [BASE, LAST])
    report = convert_beside(tmp_path / "second", tmp_path / "out", "v2")
    assert not any(layer.reused for layer in report.images[0].layers)
    assert report.digest == convert_layout(tmp_path / "second", tmp_path / "fresh", SMALL).digest


def test_a_record_that_was_only_packed_again_is_used(tmp_path: Path) -> None:
    add_image(tmp_path / "first", [BASE, TOP])
    convert_beside(tmp_path / "first", tmp_path / "out", "v1")
    replaced(tmp_path / "out", with_entries(entry("more")))
    add_image(tmp_path / "second", [BASE, LAST], without=(BASE,))
    report = convert_beside(tmp_path / "second", tmp_path / "out", "v2")
    assert [layer.reused for layer in report.images[0].layers] == [True, False]


def test_a_record_may_be_as_large_as_it_is_written(tmp_path: Path) -> None:
    add_image(tmp_path / "in", [BASE, END, TOP])
    convert_beside(tmp_path / "in", tmp_path / "out", "v1")
    files = Published(tmp_path / "out").files
    assert decode(files[RECORD]).layers
    assert len(files[RECORD]) < record_limit(len(files[BOOTSTRAP])) <= 64 << 20


@pytest.mark.parametrize("link", [b"", b"d"])
def test_undoing_gives_no_directory_a_second_name(link: bytes) -> None:
    root = empty_tree()
    root.children[b"d"] = Node(0o040755)
    with pytest.raises(ValueError, match="hard link to a directory"):
        apply_undo(root, Undo((1,), ((b"d/loop", link),)))


def test_a_tree_in_a_circle_is_refused_in_its_own_time() -> None:
    root = empty_tree()
    root.children[b"d"] = Node(0o040755, children={b"up": root})
    with pytest.raises(ValueError, match="twice"):
        check_tree(root, 4096, {})


def test_a_tree_deeper_than_paths_can_be_long_is_refused() -> None:
    root = empty_tree()
    for _ in range(2047):
        root = Node(0o040755, children={b"d": root})
    check_tree(root, 4096, {})
    with pytest.raises(ValueError, match="directories deep"):
        check_tree(Node(0o040755, children={b"d": root}), 4096, {})


def test_a_sound_tree_is_taken() -> None:
    root = empty_tree()
    shared = Node(0o100644, size=4100, chunks=(chunk_ref(3, 0), chunk_ref(3, 1)))
    root.children = {b"f": shared, b"g": shared, b"n" * 255: Node(0o010644), b"e": Node(0o100644)}
    check_tree(root, 4096, {3: [4096, 4]})
