"""Where the store of this machine lives unless somebody says otherwise."""

from __future__ import annotations

import os
import pwd
from contextlib import suppress
from pathlib import Path

from chunk_store.errors import StoreUnusable

ENVIRONMENT = "NOPULL_ROOT"
ISOLATED = "isolated"


def default_root() -> Path:
    """`$NOPULL_ROOT`, else /var/lib/nopull for root and the XDG cache folder for everybody else.

    Raises:
        StoreUnusable: there is none of them.
    """
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/nopull")
    cache = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # By its specification a relative one is to be ignored: it would be another root in every directory.
    return (cache if cache.is_absolute() else _home() / ".cache") / "nopull"


def _home() -> Path:
    """Of this user; absolute, for the same reason.

    Raises:
        StoreUnusable: none is known.
    """
    home = Path(os.environ.get("HOME", ""))
    if home.is_absolute():
        return home
    with suppress(KeyError):
        return Path(pwd.getpwuid(os.geteuid()).pw_dir)
    raise StoreUnusable("the user has no home directory ($HOME) to keep a store in; name a place with --root")


def isolated_root(root: Path, owner: str) -> Path:
    """The root of the store that only images of *owner*, a repository or a path, share."""
    from blake3 import blake3

    return root / ISOLATED / blake3(owner.encode("utf-8", "surrogateescape")).hexdigest()


def stores(root: Path) -> list[Path]:
    """The store of *root* and the isolated ones below it."""
    return [root, *sorted(path for path in (root / ISOLATED).glob("*") if path.is_dir())]
