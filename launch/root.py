"""Directories below the root, made when they are first used; what lies in each is in docs/operating.md."""

from __future__ import annotations

import errno
from pathlib import Path

from launch.errors import StateUnusable

_UNUSABLE = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG})


def state_directory(root: Path, name: str) -> Path:
    """The directory *name* below *root*, made if it is not there; for this user's eyes only.

    Raises:
        StateUnusable: the place cannot hold directories. A full disk or no permission stays an OSError.
    """
    directory = root / name
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        if error.errno not in _UNUSABLE:
            raise
        raise StateUnusable(
            f"making {directory}: {error.strerror}; choose another place with --root"
        ) from error
    return directory
