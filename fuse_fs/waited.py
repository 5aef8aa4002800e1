"""Whether whoever reads has waited for that already: the same question for both ways to serve a mount."""

from __future__ import annotations

from collections.abc import Callable

from chunk_store.recent_failures import Key, RecentFailures
from fuse_fs.errors import WaitedAlready


def may_wait_until(
    failures: RecentFailures[Key], key: Key, asker: int, offset: int, now: float, is_local: Callable[[], bool]
) -> float | None:
    """Until when thread *asker* may wait for what it reads of *key* from byte *offset* on, None: as long as
    any reader; by the clock that says *now*.

    Raises:
        WaitedAlready: no longer, and the bytes have not come meanwhile, as *is_local* says.
    """
    until = failures.until(key, asker, offset)
    if until is not None and until <= now and not is_local():
        raise WaitedAlready(f"thread {asker} has waited for byte {offset} of {key!r} already")
    return until
