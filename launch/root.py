"""Where state and cache live: the one rule, and the option that overrides it.

Creates the directories below the root when they are first used; what lies in each is in docs/operating.md.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from chunk_store.place import default_root
from launch.errors import StateUnusable

_UNUSABLE = frozenset({errno.ENOTDIR, errno.EEXIST, errno.EROFS, errno.ELOOP, errno.ENAMETOOLONG})

Command = TypeVar("Command", bound=Callable[..., Any])


def root_option(command: Command) -> Command:
    """Add `--root DIR`; the command gets *root*, an absolute path."""

    def absolute(_: click.Context, __: click.Parameter, given: Path | None) -> Path:
        return default_root() if given is None else given.absolute()

    return click.option(
        "--root",
        type=click.Path(path_type=Path, file_okay=False),
        callback=absolute,
        metavar="DIR",
        help="Where state and cache live [default: $NOPULL_ROOT, else /var/lib/nopull for root, "
        "~/.cache/nopull for others].",
    )(command)


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
