"""What distinguishes two converted images: names, chunks and blobs that one has and the other has not.

Contents are compared by the chunks' digests, not by bytes of blobs. Images that were cut into chunks of
another size, or hashed otherwise, have nothing in common by that measure, which is also what a cache would
find.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from rafs.blob_meta import BlobMeta
from rafs.bootstrap import Bootstrap
from rafs.codes import DIGEST_SIZE
from rafs.dump import escape
from rafs.inode import Inode

Chunk = tuple[bytes, int]  # digest, size in bytes
Content = tuple[bytes, int]  # sha256 of the chunks' digests in order, size in bytes

_AT_ONCE: Final = 1 << 14  # chunks of a file; a sparse one of a few KB may have millions


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
    comparable: bool  # both are cut and hashed alike, or one has no chunks

    def to_json(self, *, paths: bool) -> dict[str, Any]:
        """For scripts; the paths, quoted as in the dump, only if wanted, since they may be many."""
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
            document["added"] = [escape(path) for path in self.added]
            document["removed"] = [escape(path) for path in self.removed]
            document["changed"] = {escape(path): list(what) for path, what in self.changed.items()}
        return document


def difference(
    first: Bootstrap, first_blobs: Sequence[BlobMeta], second: Bootstrap, second_blobs: Sequence[BlobMeta]
) -> Difference:
    """How *second* differs from *first*; of each, the chunks of its blobs in the order of the blob table.

    The digests are the blobs', since those of chunks that no file uses may be in no bootstrap, and tarfs
    images have none there. `check_entries` must have passed the images: no file of theirs has a hole.

    Raises:
        RafsError: one of them cannot be read to its end.
    """
    before, after = _View(first, first_blobs), _View(second, second_blobs)
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
        comparable=_measure(first) == _measure(second) or not (first.blobs and second.blobs),
    )


class _View:
    """One image, by what is compared."""

    def __init__(self, bootstrap: Bootstrap, blobs: Sequence[BlobMeta]) -> None:
        self._bootstrap = bootstrap
        self._digests = [blob.digests for blob in blobs]
        self.paths: dict[bytes, Mapping[str, object]] = {}
        self.files: dict[Content, int] = {}
        self.chunks: set[Chunk] = set()
        inodes: dict[int, Mapping[str, object]] = {}  # by nid: a file may have any number of names
        for path, inode in bootstrap.walk():
            shown = inodes.get(inode.nid)
            if shown is None:
                shown = inodes[inode.nid] = dict(self._shown(path, inode))
            self.paths[path] = shown

    def _shown(self, path: bytes, inode: Inode) -> Iterator[tuple[str, object]]:
        """What is compared of an inode, with the first *path* that leads to it."""
        yield "type", stat.S_IFMT(inode.mode)
        yield "mode", stat.S_IMODE(inode.mode)
        yield "owner", (inode.uid, inode.gid)
        yield "time", (inode.mtime, inode.mtime_ns)
        yield "xattrs", self._bootstrap.xattrs(inode)
        if not stat.S_ISDIR(inode.mode):
            yield "links", path
        if stat.S_ISREG(inode.mode):
            content = self._content(inode)
            yield "content", content
            self.files[content] = inode.size
        else:
            yield from _special(self._bootstrap, inode)

    def _content(self, inode: Inode) -> Content:
        hashed, step = hashlib.sha256(), _AT_ONCE * self._bootstrap.chunk_size
        for start in range(0, inode.size, step):
            chunks = [
                (_digest(self._digests[one.blob_index], one.chunk_index), one.size)
                for one in self._bootstrap.extents(inode, start, start + step)
            ]
            hashed.update(b"".join(digest for digest, _ in chunks))
            self.chunks.update(chunks)
        return hashed.digest(), inode.size


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
