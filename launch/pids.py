"""What the kernel knows of a process by its number: when it was started, when it ends, what memory it has."""

from __future__ import annotations

import os
import select
from pathlib import Path


def birth_of(pid: int) -> int | None:
    """When process *pid* was started, in clock ticks since boot; None if there is no such process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The name, second field, may hold spaces and brackets; the start is field 22.
    return int(fields.rpartition(b")")[2].split()[19])


def await_end(pid: int, seconds: float) -> bool:
    """Whether process *pid* ends (or has ended) within *seconds*; a zombie has."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(descriptor)


def resident_bytes(pid: int | None = None) -> int:
    """Memory of process *pid*, default: this one, that is in RAM; 0 if there is no such process."""
    try:
        pages = Path(f"/proc/{pid or 'self'}/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return 0
    return int(pages) * os.sysconf("SC_PAGESIZE")
