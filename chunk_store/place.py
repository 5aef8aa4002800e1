"""Where the store of this machine lives unless somebody says otherwise."""

from __future__ import annotations

import os
from pathlib import Path

ENVIRONMENT = "NOPULL_ROOT"


def default_root() -> Path:
    """`$NOPULL_ROOT`, else /var/lib/nopull for root and the XDG cache folder for everybody else."""
    named = os.environ.get(ENVIRONMENT)
    if named:
        return Path(named).absolute()
    if os.geteuid() == 0:
        return Path("/var/lib/nopull")
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "nopull"
