"""The checkout where an ordinary user can read it: root's own may lie in a directory that is root's alone."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
AS_NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@contextmanager
def reachable_command() -> Iterator[list[str]]:
    """`nopull` as a command that any user can run; where need be the checkout is shown in a second place.

    Needs root, and leaves no mount behind.
    """
    program = CHECKOUT / "nopull.py"
    if all(one.stat().st_mode & 1 for one in CHECKOUT.parents):
        yield [sys.executable, str(program)]
        return
    with tempfile.TemporaryDirectory(prefix="nopull-checkout-") as base:
        Path(base).chmod(0o755)
        shown = Path(base) / "checkout"
        shown.mkdir()
        subprocess.run(["mount", "--bind", CHECKOUT, shown], check=True)
        try:
            python = Path(sys.executable)
            if python.is_relative_to(CHECKOUT):
                python = shown / python.relative_to(CHECKOUT)
            yield [str(python), str(shown / "nopull.py")]
        finally:
            subprocess.run(["umount", shown], check=True)
