"""Pre-content events of fanotify: the kernel asks before a watched file is read or written, and waits.

A thin layer over libc: flags, records and numbers of linux/fanotify.h, an `OSError` where a call fails.
What is relied on, and since when: Linux 6.14, on ext4, xfs and btrfs. What an event means for a window is
`keeper`'s.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import termios
from array import array
from typing import Final, NamedTuple

from erofs_fs.errors import QueueOverflow
from erofs_fs.syscalls import checked

_CLASS_PRE_CONTENT, _CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE, _UNLIMITED_MARKS = 8, 1, 2, 0x10, 0x20
_THREADS: Final = 0x100  # FAN_REPORT_TID: events name threads
_MARK_ADD, _MARK_REMOVE, _MARK_DONT_FOLLOW, _MARK_MOUNT = 1, 2, 4, 0x10
_MARK_IGNORE, _MARK_SURVIVE_MODIFY = 0x400, 0x40
_PRE_ACCESS: Final = 0x0010_0000
_OPEN_PERMISSION: Final = 0x0001_0000
_OVERFLOW: Final = 0x4000
_RANGE_RECORD: Final = 6

_EVENT = struct.Struct("<IBBHQii")  # length, version, -, length of this part, mask, descriptor, thread
_RECORD = struct.Struct("<BBH")  # type, -, length
_RANGE = struct.Struct("<BBHIQQ")  # type, -, length, -, offset, count
_ANSWER = struct.Struct("<iI")  # descriptor, response
EVENT_BYTES: Final = _EVENT.size + _RANGE.size  # of one event as the kernel writes it here

_ALLOW: Final = 1
_DENY_EIO: Final = 2 | 5 << 24  # FAN_DENY_ERRNO(EIO): whatever is denied, readers of EROFS see EIO

_libc = ctypes.CDLL(None, use_errno=True)


class Event(NamedTuple):
    """Somebody is about to access a watched file, and waits."""

    number: int  # descriptor of the file, ours to close; the answer names it by this number
    thread: int  # which accesses it, as seen here; 0 if it is not seen from here
    offset: int  # bytes, whole pages
    end: int  # may lie behind the file's end; equals offset where the file is being cut


def open_group() -> int:
    """A group of pre-content events with an unlimited queue; its descriptor does not block.

    As long as somebody holds it, accesses to watched files wait; when the last holder is gone, they go on.

    Raises:
        OSError: EINVAL on kernels before 6.14, EPERM without CAP_SYS_ADMIN, EMFILE beyond 128 groups.
    """
    flags = _CLASS_PRE_CONTENT | _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE | _UNLIMITED_MARKS | _THREADS
    file_flags = os.O_RDONLY | os.O_LARGEFILE | os.O_CLOEXEC
    return checked(_libc.fanotify_init(ctypes.c_uint(flags), ctypes.c_uint(file_flags)))


def watch(group: int, descriptor: int, name: str | None = None) -> None:
    """Raise events for accesses to the open file *descriptor*, or to the file *name* below that directory,
    through whatever is opened from now on.

    What the kernel opened while no group watched never raises any, also not for later marks.

    Raises:
        OSError: EOPNOTSUPP on file systems without such events, ENOSPC beyond the limit of marks.
    """
    _mark(group, _MARK_ADD | _MARK_DONT_FOLLOW, descriptor, None if name is None else os.fsencode(name))


def unwatch(group: int, directory: int, name: str) -> None:
    """Raise no more events for the file *name* below *directory*; no error if none were raised.

    Whoever opened it while it was watched raises them again as soon as it is.

    Raises:
        OSError: there is no such file.
    """
    try:
        _mark(group, _MARK_REMOVE | _MARK_DONT_FOLLOW, directory, os.fsencode(name))
    except FileNotFoundError:
        # Also what the kernel says when the file has no mark.
        os.stat(name, dir_fd=directory, follow_symlinks=False)


def is_watched(group: int, directory: int, name: str) -> bool:
    """Whether the file that *name* below *directory* leads to now was given to `watch`.

    Raises:
        OSError: other than that there is none.
    """
    try:
        # Takes an event away that no mark of ours has; the kernel says ENOENT where there is no mark at all.
        _mark(group, _MARK_REMOVE | _MARK_DONT_FOLLOW, directory, os.fsencode(name), _OPEN_PERMISSION)
    except FileNotFoundError:
        return False
    return True


def ignore_mount(group: int, tree: int) -> None:
    """Raise no events for what is accessed through the mount whose root is the descriptor *tree*."""
    _mark(group, _MARK_ADD | _MARK_MOUNT | _MARK_IGNORE | _MARK_SURVIVE_MODIFY, tree, b".")


def read_events(group: int, most: int) -> list[Event]:
    """The events that are waiting, at most *most*; empty if there are none.

    Raises:
        OSError: EMFILE, there was no descriptor for the next event, which the kernel has denied.
        QueueOverflow: see there.
    """
    try:
        raw = os.read(group, most * EVENT_BYTES)
    except BlockingIOError:
        return []
    events = []
    at = 0
    while at < len(raw):
        length, _, _, head, mask, number, thread = _EVENT.unpack_from(raw, at)
        if mask & _OVERFLOW:
            raise QueueOverflow("the kernel has dropped events of an unlimited queue")
        offset, end = _range(raw, at + head, at + length)
        events.append(Event(number, thread, offset, end))
        at += length
    return events


def queued(group: int) -> int:
    """How many events are waiting."""
    size = array("i", [0])
    fcntl.ioctl(group, termios.FIONREAD, size)
    return size[0] // _EVENT.size  # the kernel does not count what comes with it


def allow(group: int, number: int) -> bool:
    """Let the access go on; False if nobody waits for that number."""
    return _answer(group, number, _ALLOW)


def deny(group: int, number: int) -> bool:
    """Let the access fail with EIO; False if nobody waits for that number."""
    return _answer(group, number, _DENY_EIO)


def _range(raw: bytes, at: int, end: int) -> tuple[int, int]:
    while at + _RECORD.size <= end:
        kind, _, length = _RECORD.unpack_from(raw, at)
        if kind == _RANGE_RECORD:
            *_, offset, count = _RANGE.unpack_from(raw, at)
            return offset, offset + count
        at += max(length, _RECORD.size)
    return 0, 1 << 62  # without a range: the whole file


def _answer(group: int, number: int, response: int) -> bool:
    try:
        os.write(group, _ANSWER.pack(number, response))
    except FileNotFoundError:
        return False
    return True


def _mark(
    group: int, flags: int, directory: int, name: bytes | None, event: int = _PRE_ACCESS
) -> None:
    checked(
        _libc.fanotify_mark(
            ctypes.c_int(group),
            ctypes.c_uint(flags),
            ctypes.c_uint64(event),
            ctypes.c_int(directory),
            name,
        )
    )
