"""The readahead of a kernel mount: how far the kernel reads beyond what a reader asked for.

Found through the mount's number below /sys/fs/erofs, which nothing else tells: the one that came with the
mount.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

MOUNTS: Final = Path("/sys/fs/erofs")
DEVICES: Final = Path("/sys/class/bdi")
KIB: Final = 128


def numbers() -> frozenset[str]:
    """The EROFS mounts of this machine as the kernel counts them; and a few names that are none."""
    with suppress(OSError):
        return frozenset(os.listdir(MOUNTS))  # noqa: PTH208 - names are all that is wanted
    return frozenset()


def tune_readahead(before: frozenset[str], kib: int = KIB) -> bool:
    """Give the one mount that has come since *before* a readahead of *kib*; False if that cannot be told.

    Another program may mount at the same time: then all keep the kernel's own, which is right but slower.
    """
    came = numbers() - before
    if len(came) != 1:
        return False
    try:
        (DEVICES / next(iter(came)) / "read_ahead_kb").write_text(str(kib), encoding="ascii")
    except OSError:
        return False
    return True
