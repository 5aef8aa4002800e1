"""What can go wrong with a kernel mount, one class per decision of the caller."""

from __future__ import annotations


class ErofsError(Exception):
    """Root of everything this package raises on purpose."""


class ErofsMissing(ErofsError):
    """This kernel, or the file system of the state root, cannot carry such a mount; FUSE can."""


class ErofsForbidden(ErofsError):
    """Only root may mount this way."""


class MountFailed(ErofsError):
    """The kernel refused this mount; its own words are in the message."""


class KeeperFailed(ErofsError):
    """There is no keeper, and none can be started; mounts that are complete are not touched by that."""


class PostTaken(ErofsError):
    """Another process is the filler of this store: it can be asked, or followed when it ends."""


class QueueOverflow(ErofsError):
    """Events of fanotify were lost, hence allowed. Cannot happen to an unlimited queue."""


class CacheTooSmall(ErofsError):
    """The cache may not hold all of the image, or has no room for it, which a kernel mount holds once it was
    read; FUSE does not.
    """
