"""Byte regions of files on this host, and the two trees they come from: a directory, and a plain tar file.

A tar is read where it lies, by offsets, never unpacked. Nothing here knows what the files mean.
"""

from __future__ import annotations

import os
import posixpath
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from registry_client.errors import LayoutInvalid, NotFound, RangeInvalid, layout_error
from registry_client.layouts.tar_members import MemberKind, TarInvalid, tar_members

PIECE = 256 * 1024
_MAGIC = {"gzip": b"\x1f\x8b", "zstd": b"\x28\xb5\x2f\xfd", "xz": b"\xfd7zXZ\x00", "bzip2": b"BZh"}
_LINKS = 8  # docker save writes repeated layers as symlinks; a longer chain is a loop


@dataclass(frozen=True, slots=True)
class Region:
    """*size* bytes of *file* from *offset*."""

    file: Path
    offset: int
    size: int
    whole: bool = False
    """It is all that *file* has."""

    def read(self, what: str, limit: int) -> bytes:
        """All of it, if it has at most *limit* bytes; *what* names it in errors.

        Of a whole file, what it has now: documents are replaced while others read them.
        """
        size = self.size
        if self.whole:
            try:
                with self.file.open("rb") as opened:
                    raw = opened.read(limit + 1)
                    size = max(len(raw), os.fstat(opened.fileno()).st_size)
            except OSError as error:
                raise layout_error(f"cannot read {what} in {self.file}", error) from error
        if size > limit:
            raise LayoutInvalid(f"{what} has {size} bytes, more than the {limit} that make sense")
        return raw if self.whole else b"".join(self.pieces(what, 0, size))

    def pieces(self, what: str, offset: int, size: int) -> Iterator[bytes]:
        """*size* bytes from *offset* within the region, in pieces of at most 256 KiB.

        Raises:
            RangeInvalid: the region has no such bytes.
            LayoutInvalid: the file has become shorter, or cannot be read.
        """
        if offset < 0 or size < 0 or offset + size > self.size:
            raise RangeInvalid(f"{what} has {self.size} bytes; asked for {size} bytes from offset {offset}")
        position = self.offset + offset
        end = position + size
        try:
            descriptor = os.open(self.file, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise layout_error(f"cannot open {self.file} to read {what}", error) from error
        try:
            while position < end:
                piece = os.pread(descriptor, min(PIECE, end - position), position)
                if not piece:
                    raise LayoutInvalid(f"{self.file} ends at byte {position}, in the middle of {what}")
                position += len(piece)
                yield piece
        except OSError as error:
            raise layout_error(f"cannot read {what} in {self.file}", error) from error
        finally:
            os.close(descriptor)


class Tree(Protocol):
    """Files by their relative names, such as `blobs/sha256/…`."""

    root: Path

    def find(self, name: str) -> Region | None:
        """Where the file *name* lies; None when there is no such regular file."""


class DirectoryTree:
    """The files below a directory, as they are now."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def find(self, name: str) -> Region | None:
        path = self.root / name
        try:
            size = path.stat().st_size
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise layout_error(f"cannot look at {path}", error) from error
        return Region(path, 0, size, whole=True) if path.is_file() else None


class TarTree:
    """The members of an uncompressed tar; its table is read once, when it is first needed."""

    def __init__(self, file: Path) -> None:
        self.root = file
        self._lock = threading.Lock()  # protects filling _members; held while the headers are read
        self._members: dict[str, Region | str] | None = None

    def find(self, name: str) -> Region | None:
        with self._lock:
            if self._members is None:
                self._members = _read_table(self.root)
        for _ in range(_LINKS):
            found = self._members.get(name)
            if not isinstance(found, str):
                return found
            name = found
        raise LayoutInvalid(f"{self.root} has a loop of links at {name!r}")


def _read_table(file: Path) -> dict[str, Region | str]:
    members: dict[str, Region | str] = {}
    try:
        with file.open("rb") as opened:
            descriptor = opened.fileno()
            size = os.fstat(descriptor).st_size
            for member in tar_members(size, lambda offset, count: os.pread(descriptor, count, offset)):
                name = posixpath.normpath(member.name)
                if member.kind is MemberKind.FILE:
                    members[name] = Region(file, member.offset, member.size)
                elif member.kind is MemberKind.SYMLINK:
                    target = posixpath.join(posixpath.dirname(name), member.link)
                    members[name] = posixpath.normpath(target)
                elif member.kind is MemberKind.HARD_LINK:
                    members[name] = posixpath.normpath(member.link)
    except FileNotFoundError as error:
        raise NotFound(f"there is no archive {file}") from error
    except OSError as error:
        raise layout_error(f"cannot read the archive {file}", error) from error
    except TarInvalid as error:
        raise LayoutInvalid(f"{file} is not a readable tar archive ({error}){_compression(file)}") from error
    return members


def _compression(file: Path) -> str:
    with file.open("rb") as opened:
        magic = opened.read(6)
    name = next((name for name, start in _MAGIC.items() if magic.startswith(start)), None)
    return f"; it is compressed with {name}: decompress it first" if name else ""
