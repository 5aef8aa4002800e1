"""How many descriptors a keeper may have: each access that waits takes one."""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Final

from erofs_fs.errors import KeeperFailed

SPARE: Final = 64  # kept free for everything but accesses that wait
_FEWEST: Final = 256  # with fewer, readers would often get errors because there are many of them


def require_descriptors() -> None:
    """Return if a keeper that this process starts, or becomes, may have enough.

    Raises:
        KeeperFailed: it may not.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard < _FEWEST:
        raise KeeperFailed(
            f"a keeper needs {_FEWEST} descriptors, one for each reader that waits, and may have {hard} here"
            " (RLIMIT_NOFILE; `ulimit -Hn` shows it)"
        )


def take_descriptors() -> None:
    """Let this process have as many as it may."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
