"""What distinguishes two converted images: names, chunks and blobs that one has and the other has not.

Contents are compared by the chunks' digests, so no blob is read. Images that were cut into chunks of another
size, or hashed otherwise, have nothing in common by that measure, which is also what a cache would find.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rafs.bootstrap import Bootstrap
from rafs.codes import DIGEST_SIZE
from rafs.directory import name_text
from rafs.inode import Inode

Chunk = tuple[bytes, int]  # digest, size in bytes


@dataclass(frozen=True, slots=True)
class Counted:
    """How many, and their bytes: of chunks not compressed, of blobs as they are stored."""

    count: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Parts:
    """Of two sets: what both have, what only the second has, what only the first has."""

    shared: Counted
    added: Counted
    removed: Counted


@dataclass(frozen=True, slots=True)
class Difference:
    """From a first image to a second. Paths are sorted; `changed` says what of each path differs."""

    same: int  # paths that are equal in both
    added: tuple[bytes, ...]
    removed: tuple[bytes, ...]
    changed: Mapping[bytes, tuple[str, ...]]
    files: Parts  # regular ones by content, names left aside
    chunks: Parts
    blobs: Parts
    comparable: bool  # both are cut and hashed alike

    def to_json(self, *, paths: bool) -> dict[str, Any]:
        """For scripts; the paths only if wanted, since they may be many."""
        document: dict[str, Any] = {
            "comparable": self.comparable,
            "paths": {
                "same": self.same,
                "added": len(self.added),
                "removed": len(self.removed),
                "changed": len(self.changed),
            },
            "files": asdict(self.files),
            "chunks": asdict(self.chunks),
            "blobs": asdict(self.blobs),
        }
        if paths:
            document["added"] = [name_text(path) for path in self.added]
            document["removed"] = [name_text(path) for path in self.removed]
            document["changed"] = {name_text(path): list(what) for path, what in self.changed.items()}
        return document


def difference(first: Bootstrap, second: Bootstrap) -> Difference:
    """How *second* differs from *first*.

    Raises:
        RafsError: one of them cannot be read to its end.
    """
    before, after = _View(first), _View(second)
    names = before.paths.keys() & after.paths.keys()
    changed = {
        path: what
        for path in sorted(names)
        if (what := tuple(_changes(before.paths[path], after.paths[path])))
    }
    return Difference(
        same=len(names) - len(changed),
        added=tuple(sorted(after.paths.keys() - before.paths.keys())),
        removed=tuple(sorted(before.paths.keys() - after.paths.keys())),
        changed=changed,
        files=_parts(before.files, after.files),
        chunks=_parts(
            {chunk: chunk[1] for chunk in before.chunks}, {chunk: chunk[1] for chunk in after.chunks}
        ),
        blobs=_parts(
            {blob.id: blob.compressed_size for blob in first.blobs},
            {blob.id: blob.compressed_size for blob in second.blobs},
        ),
        comparable=_measure(first) == _measure(second),
    )


class _View:
    """One image, by what is compared."""

    def __init__(self, bootstrap: Bootstrap) -> None:
        digests = [bootstrap.chunk_digests(blob.index) for blob in bootstrap.blobs]
        self.paths: dict[bytes, dict[str, object]] = {}
        self.files: dict[tuple[Chunk, ...], int] = {}
        self.chunks: set[Chunk] = set()
        first_names: dict[int, bytes] = {}
        for path, inode in bootstrap.walk():
            shown: dict[str, object] = {
                "type": stat.S_IFMT(inode.mode),
                "mode": stat.S_IMODE(inode.mode),
                "owner": (inode.uid, inode.gid),
                "time": (inode.mtime, inode.mtime_ns),
                "xattrs": bootstrap.xattrs(inode),
            }
            if not stat.S_ISDIR(inode.mode):
                shown["links"] = first_names.setdefault(inode.nid, path)
            if stat.S_ISREG(inode.mode):
                content = tuple(
                    (_digest(digests[one.blob_index], one.chunk_index), one.size)
                    for one in bootstrap.extents(inode)
                )
                shown["content"] = content
                self.files[content] = inode.size
                self.chunks.update(content)
            else:
                shown.update(_special(bootstrap, inode))
            self.paths[path] = shown


def _digest(digests: bytes, index: int) -> bytes:
    return digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE]


def _special(bootstrap: Bootstrap, inode: Inode) -> Iterator[tuple[str, object]]:
    if stat.S_ISLNK(inode.mode):
        yield "target", bootstrap.symlink_target(inode)
    elif not stat.S_ISDIR(inode.mode):
        yield "device", inode.rdev


def _changes(before: Mapping[str, object], after: Mapping[str, object]) -> Iterator[str]:
    if before["type"] != after["type"]:
        yield "type"
        return
    yield from (what for what, value in before.items() if after[what] != value)


def _parts(before: Mapping[Any, int], after: Mapping[Any, int]) -> Parts:
    def counted(keys: Any, sizes: Mapping[Any, int]) -> Counted:
        return Counted(len(keys), sum(sizes[key] for key in keys))

    return Parts(
        counted(before.keys() & after.keys(), after),
        counted(after.keys() - before.keys(), after),
        counted(before.keys() - after.keys(), before),
    )


def _measure(bootstrap: Bootstrap) -> tuple[int, frozenset[int]]:
    return bootstrap.chunk_size, frozenset(blob.digester for blob in bootstrap.blobs)
