"""What can go wrong with a FUSE mount, and the answers that are no failures.

A `Refusal` is the right answer to a question about the tree (no such name); everything else that reaches a
callback is a failure, and the one table from both to errnos is in `answers`.
"""

from __future__ import annotations


class FuseError(Exception):
    """Root of everything this package raises on purpose."""


class FuseMissing(FuseError):
    """This machine lacks a part that FUSE mounts need; the message names the package."""


class MountpointInvalid(FuseError):
    """The directory to mount on is missing, no directory, or not empty."""


class MountFailed(FuseError):
    """The kernel, or a program or library between, refused the mount."""


class WaitedAlready(FuseError):
    """Whoever asks has waited for these bytes in vain just now, and they have not come since."""


class ReadIncomplete(FuseError):
    """Fewer bytes came than the file has there; passed on, they would truncate the file for its reader."""


class Refusal(FuseError):
    """The right answer to a question about the tree."""


class NoSuchEntry(Refusal):
    """The directory has no such name."""


class NotADirectory(Refusal):
    """A component of the path is not a directory."""


class IsADirectory(Refusal):
    """A directory was to be read as a file."""


class NotASymlink(Refusal):
    """What is to be followed is not a symbolic link."""


class NotAFile(Refusal):
    """What is to be read is neither a file nor a directory."""


class NoSuchAttribute(Refusal):
    """The inode has no such extended attribute."""


class NotSupported(Refusal):
    """The request is left to the kernel, or not known here."""


class TreeReadOnly(Refusal):
    """The request would change the image."""


class MessageInvalid(Refusal):
    """The request is not of the form that it should have."""


class RoomTooSmall(Refusal):
    """The answer is longer than what was asked for."""
