"""A small language for file trees in tests: `tree(file(b"a", b"bytes"), directory(b"d", fifo(b"p")))`.

A tree so written can become a layer (`layer_tar`), what a writer is given (`node_tree`), the list of what a
mount must show (`expected`), and, in `images`, a whole image.
"""

from __future__ import annotations

import io
import stat
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rafs.tree import Node, device_number


@dataclass(frozen=True, slots=True)
class Entry:
    """One name. Made by the functions below, which say what a keyword may be."""

    name: bytes
    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_ns: int = 0
    content: bytes = b""
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(default_factory=dict)
    children: tuple[Entry, ...] = ()
    link_to: bytes | None = None  # a hard link: absolute path of the other name
    blob: int = 0  # which blob of the image holds the content


def file(name: bytes, content: bytes = b"", *, mode: int = 0o644, **attributes: Any) -> Entry:
    return Entry(name, stat.S_IFREG | mode, content=content, **attributes)


def directory(name: bytes, *children: Entry, mode: int = 0o755, **attributes: Any) -> Entry:
    return Entry(name, stat.S_IFDIR | mode, children=children, **attributes)


def tree(*children: Entry, mode: int = 0o755, **attributes: Any) -> Entry:
    return directory(b"", *children, mode=mode, **attributes)


def symlink(name: bytes, target: bytes, **attributes: Any) -> Entry:
    return Entry(name, stat.S_IFLNK | 0o777, target=target, **attributes)


def hardlink(name: bytes, to: bytes) -> Entry:
    """*to*: absolute path of the file; it may come later in the tree, but not in a layer."""
    return Entry(name, stat.S_IFREG, link_to=to)


def fifo(name: bytes, *, mode: int = 0o644, **attributes: Any) -> Entry:
    return Entry(name, stat.S_IFIFO | mode, **attributes)


def socket(name: bytes, *, mode: int = 0o755, **attributes: Any) -> Entry:
    """Not for layers: tar has no sockets."""
    return Entry(name, stat.S_IFSOCK | mode, **attributes)


def char_device(name: bytes, major: int, minor: int, *, mode: int = 0o600, **attributes: Any) -> Entry:
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor), **attributes)


def block_device(name: bytes, major: int, minor: int, *, mode: int = 0o600, **attributes: Any) -> Entry:
    return Entry(name, stat.S_IFBLK | mode, device=(major, minor), **attributes)


def whiteout(name: bytes) -> Entry:
    """In a layer: *name* of the layers below is gone."""
    return file(b".wh." + name)


def opaque() -> Entry:
    """In a directory of a layer: nothing of it comes from the layers below."""
    return file(b".wh..wh..opq")


def paths(root: Entry, prefix: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Every entry with its absolute path, parents first, in the given order; the root is `b"/"`."""
    path = prefix + b"/" + root.name if root.name else prefix
    yield path or b"/", root
    for child in root.children:
        yield from paths(child, path)


def layer_tar(entries: Iterable[Entry]) -> bytes:
    """A PAX tar of *entries* and all below them, in the given order; a `tree` is the member `./`."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for top in entries:
            for path, entry in paths(top):
                archive.addfile(_member(path, entry), io.BytesIO(entry.content))
    return stream.getvalue()


_MEMBER_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE,
    stat.S_IFDIR: tarfile.DIRTYPE,
    stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE,
    stat.S_IFCHR: tarfile.CHRTYPE,
    stat.S_IFBLK: tarfile.BLKTYPE,
}


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _member(path: bytes, entry: Entry) -> tarfile.TarInfo:
    member = tarfile.TarInfo(_text(path.lstrip(b"/")) or "./")
    member.type = _MEMBER_TYPES[stat.S_IFMT(entry.mode)]
    member.mode = stat.S_IMODE(entry.mode)
    member.uid, member.gid, member.size = entry.uid, entry.gid, len(entry.content)
    member.mtime = entry.mtime
    member.devmajor, member.devminor = entry.device
    member.linkname = _text(entry.target)
    member.pax_headers = {"SCHILY.xattr." + _text(key): _text(value) for key, value in entry.xattrs.items()}
    if entry.mtime < 0 or entry.mtime_ns:
        # As a decimal fraction: -1 s and 250 000 000 ns is -0.75.
        nanoseconds = entry.mtime * 10**9 + entry.mtime_ns
        sign = "-" if nanoseconds < 0 else ""
        member.pax_headers["mtime"] = f"{sign}{abs(nanoseconds) // 10**9}.{abs(nanoseconds) % 10**9:09d}"
        member.mtime = 0
    if entry.link_to is not None:
        member.type = tarfile.LNKTYPE
        member.linkname = _text(entry.link_to.lstrip(b"/"))
    return member


def node_tree(root: Entry, store: Callable[[Entry], Sequence[int]]) -> Node:
    """The tree as a writer wants it; *store* keeps a regular file's content and returns its chunks."""
    nodes: dict[bytes, Node] = {}
    links: list[tuple[bytes, bytes]] = []
    for path, entry in paths(root):
        if entry.link_to is not None:
            links.append((path, entry.link_to))
            continue
        node = Node(
            entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime=entry.mtime,
            mtime_ns=entry.mtime_ns,
            rdev=device_number(*entry.device),
            size=len(entry.content),
            target=entry.target,
            xattrs=dict(entry.xattrs) or None,
            chunks=store(entry) if stat.S_ISREG(entry.mode) else (),
        )
        nodes[path] = node
        _attach(nodes, path, node)
    for path, other in links:
        _attach(nodes, path, nodes[other])
    return nodes[b"/"]


def _attach(nodes: Mapping[bytes, Node], path: bytes, node: Node) -> None:
    if path != b"/":
        parent, name = path.rsplit(b"/", 1)
        nodes[parent or b"/"].children[name] = node


@dataclass(frozen=True, slots=True)
class Shown:
    """What `lstat`, `readlink`, `getxattr` and `read` must give for one path."""

    mode: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    nlink: int
    rdev: tuple[int, int]
    target: bytes
    xattrs: Mapping[bytes, bytes]
    content: bytes
    inode_of: bytes  # the first path, in sorted order, of the same inode


def expected(root: Entry) -> dict[bytes, Shown]:
    """What a mount of *root* must show, by absolute path."""
    entries = dict(paths(root))
    inodes = {path: entry.link_to or path for path, entry in entries.items()}
    names: dict[bytes, list[bytes]] = {}
    for path, inode in inodes.items():
        names.setdefault(inode, []).append(path)
    shown = {}
    for path, inode in inodes.items():
        entry = entries[inode]
        folders = sum(stat.S_ISDIR(child.mode) for child in entry.children)
        shown[path] = Shown(
            mode=entry.mode,
            uid=entry.uid,
            gid=entry.gid,
            mtime=entry.mtime,
            mtime_ns=entry.mtime_ns,
            nlink=2 + folders if stat.S_ISDIR(entry.mode) else len(names[inode]),
            rdev=entry.device,
            target=entry.target,
            xattrs=entry.xattrs,
            content=entry.content,
            inode_of=min(names[inode]),
        )
    return shown
