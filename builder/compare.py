"""Does a converted image show what an ordinary one shows: every path's type, bytes, mode, owner, time, links.

Bytes are compared by digest: each chunk of a converted file must have the digest of the same bytes of the
ordinary one. That the chunks stored have the digests the image says is not judged here; whoever calls has
read and verified them.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from builder.layers.merged_image import MergedImage
from rafs.blob_meta import BlobMeta
from rafs.bootstrap import Bootstrap
from rafs.counted import counted
from rafs.errors import RafsError
from rafs.findings import Finding
from rafs.inode import Inode, Nid
from rafs.tree import Node, split_device_number, walk

FINDINGS_LIMIT: Final = 1000  # images that have nothing in common would fill the memory with complaints
_KINDS: Final = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symbolic link",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}

Advance = Callable[[int], None]


@dataclass(slots=True)
class Compared:
    """What a comparison looked at and found.

    `paths` counts names that both have, `files` the regular files among them, each once whatever its links;
    `files_compared` and `bytes_compared` leave out those in blobs whose chunks are not known.
    """

    findings: list[Finding]
    paths: int = 0
    files: int = 0
    files_compared: int = 0
    bytes_compared: int = 0


def compare(
    bootstrap: Bootstrap, metas: Sequence[BlobMeta], ordinary: MergedImage, advance: Advance = lambda _: None
) -> Compared:
    """How the image of *bootstrap* differs from *ordinary*; `findings` is empty if in nothing.

    *metas* are its blobs' chunks; files in a blob that is not among them are not compared by content, since
    somebody has found that blob broken already. *advance* is told the bytes compared.
    """
    comparison = _Comparison(bootstrap, metas, ordinary, advance)
    try:
        comparison.run()
    except RafsError as error:
        comparison.note("against-unreadable", b"/", f"the converted image cannot be read to its end: {error}")
    return comparison.found


class _Full(Exception):
    """There are as many findings as anybody reads."""


class _Comparison:
    """One run; directories are walked side by side, so nothing but open directories is kept of the trees."""

    def __init__(
        self, bootstrap: Bootstrap, metas: Sequence[BlobMeta], ordinary: MergedImage, advance: Advance
    ) -> None:
        self._bootstrap = bootstrap
        self._metas = {meta.id: meta for meta in metas}
        self._ordinary = ordinary
        self._advance = advance
        self._names = _link_counts(ordinary.root)
        self._first_by_nid: dict[Nid, bytes] = {}
        self._first_by_node: dict[Node, bytes] = {}
        self.found = Compared([])

    def run(self) -> None:
        root = self._bootstrap.inode(self._bootstrap.root_nid)
        pending = [(b"/", root, self._ordinary.root)]
        try:
            while pending:
                path, inode, node = pending.pop()
                self.found.paths += 1
                self._attributes(path, inode, node)
                if stat.S_IFMT(inode.mode) == stat.S_IFMT(node.mode) == stat.S_IFDIR:
                    pending += reversed(list(self._both(path, inode, node)))
        except _Full:
            self.found.findings.append(
                Finding("against-more", "/", f"more than {FINDINGS_LIMIT} differences; the rest is not shown")
            )

    def note(self, rule: str, path: bytes, message: str) -> None:
        self.found.findings.append(Finding(rule, repr(path)[1:], message))
        if len(self.found.findings) >= FINDINGS_LIMIT:
            raise _Full

    def _both(self, path: bytes, inode: Inode, node: Node) -> Iterator[tuple[bytes, Inode, Node]]:
        """The children that both directories have; notes the others."""
        prefix = path if path == b"/" else path + b"/"
        here = {name: nid for name, nid, _ in self._bootstrap.entries(inode) if name not in (b".", b"..")}
        for name in sorted(here.keys() | node.children.keys()):
            child = node.children.get(name)
            if child is None:
                self.note("against-extra", prefix + name, "only in the converted image")
            elif name not in here:
                below = sum(1 for _ in walk(child)) - 1
                more = f", with {below} names below it" if below else ""
                self.note("against-missing", prefix + name, f"missing in the converted image{more}")
            else:
                yield prefix + name, self._bootstrap.inode(here[name]), child

    def _attributes(self, path: bytes, inode: Inode, node: Node) -> None:
        kind = stat.S_IFMT(node.mode)
        if stat.S_IFMT(inode.mode) != kind:
            self._differs("type", path, _kind(inode.mode), _kind(node.mode))
            return
        self._expect("mode", path, f"{inode.mode & 0o7777:04o}", f"{node.mode & 0o7777:04o}")
        self._expect("owner", path, f"{inode.uid}:{inode.gid}", f"{node.uid}:{node.gid}")
        self._expect("time", path, _time(inode), _time(node))
        self._expect("xattrs", path, _xattrs(self._bootstrap.xattrs(inode)), _xattrs(node.xattrs or {}))
        if kind != stat.S_IFDIR:
            self._links(path, inode, node)
        if kind == stat.S_IFLNK:
            target = self._bootstrap.symlink_target(inode)
            self._expect("target", path, repr(target)[1:], repr(node.target)[1:])
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            self._expect("device", path, _device(inode), _device(node))
        elif kind == stat.S_IFREG and self._first_by_nid[inode.nid] == path:
            self._content(path, inode, node)

    def _links(self, path: bytes, inode: Inode, node: Node) -> None:
        """Compare the groups of names that are one file, told by the first of each."""
        first = self._first_by_nid.setdefault(inode.nid, path)
        wanted = self._first_by_node.setdefault(node, path)
        if first != wanted:
            found, expected = ("no link" if one == path else f"a link to {one!r}" for one in (first, wanted))
            self._differs("links", path, found, expected)
        self._expect("links", path, f"{inode.nlink} names", f"{self._names.get(node, 1)} names")

    def _content(self, path: bytes, inode: Inode, node: Node) -> None:
        self.found.files += 1
        if inode.size != node.size:
            self.found.files_compared += 1
            self._differs("size", path, counted(inode.size, "byte"), counted(node.size, "byte"))
            return
        extents = self._bootstrap.extents(inode)
        metas = [self._metas.get(self._bootstrap.blobs[extent.blob_index].id) for extent in extents]
        if None in metas:
            return
        self.found.files_compared += 1
        if not extents:
            return
        assert metas[0] is not None
        digests = self._ordinary.digests(node, metas[0].digester)
        for extent, meta, wanted in zip(extents, metas, digests, strict=True):
            assert meta is not None
            chunk = meta.chunk(extent.chunk_index)
            if chunk.digest != wanted or (chunk.offset, chunk.size) != (extent.blob_offset, extent.size):
                end = extent.file_offset + extent.size
                self.note("against-content", path, f"other bytes between {extent.file_offset} and {end}")
                return
        self.found.bytes_compared += inode.size
        self._advance(inode.size)

    def _expect(self, what: str, path: bytes, found: str, wanted: str) -> None:
        if found != wanted:
            self._differs(what, path, found, wanted)

    def _differs(self, what: str, path: bytes, found: str, wanted: str) -> None:
        self.note(f"against-{what}", path, f"{what} is {found[:300]}, in the ordinary image {wanted[:300]}")


def _link_counts(root: Node) -> Mapping[Node, int]:
    """How many names each node has, of those that have more than one."""
    counts: dict[Node, int] = {}
    seen: set[Node] = set()
    for _, node in walk(root):
        if node in seen:
            counts[node] = counts.get(node, 1) + 1
        seen.add(node)
    return counts


def _kind(mode: int) -> str:
    return _KINDS.get(stat.S_IFMT(mode), f"of mode {mode:o}")


def _time(one: Inode | Node) -> str:
    return f"{one.mtime}.{one.mtime_ns:09d}"


def _device(one: Inode | Node) -> str:
    major, minor = split_device_number(one.rdev)
    return f"{major}:{minor}"


def _xattrs(found: Mapping[bytes, bytes]) -> str:
    return ", ".join(f"{name!r}={found[name]!r}" for name in sorted(found)) or "none"
