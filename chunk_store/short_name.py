"""Names for paths where there is no room for them: a socket's address has 107 bytes, a mount's option 255.

Standard library only: the keeper has both.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def short_name(path: Path) -> Iterator[str]:
    """A name of *path*, while this is entered: 30 bytes at most and the last part, however deep *path* lies.

    Raises:
        OSError: its directory is not there.
    """
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
