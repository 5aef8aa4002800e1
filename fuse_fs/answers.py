"""From errors to errnos: the one table.

A refusal has its own errno. Everything else – bytes that cannot be had, bytes that are wrong, a broken
image, a defect of ours – is EIO: the reader must never take a failure for an answer.
"""

from __future__ import annotations

import errno

from fuse_fs.errors import (
    IsADirectory,
    MessageInvalid,
    NoSuchAttribute,
    NoSuchEntry,
    NotADirectory,
    NotAFile,
    NotASymlink,
    NotSupported,
    RoomTooSmall,
    TreeReadOnly,
    WaitedAlready,
)

REFUSALS: dict[type[BaseException], int] = {
    NoSuchEntry: errno.ENOENT,
    NotADirectory: errno.ENOTDIR,
    IsADirectory: errno.EISDIR,
    NotASymlink: errno.EINVAL,
    NotAFile: errno.EINVAL,
    NoSuchAttribute: errno.ENODATA,
    NotSupported: errno.ENOSYS,
    TreeReadOnly: errno.EROFS,
    MessageInvalid: errno.EINVAL,
    RoomTooSmall: errno.ERANGE,
    WaitedAlready: errno.EIO,  # which was logged when it had waited
}


def errno_of(error: BaseException) -> int:
    """The errno that stands for *error*; EIO also for an OSError: its errno is about our files."""
    return REFUSALS.get(type(error), errno.EIO)


def is_failure(error: BaseException) -> bool:
    """Whether *error* deserves a line in the log."""
    return type(error) not in REFUSALS
