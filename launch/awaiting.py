"""Wait for another process's words, and look now and then whether it can still say them."""

from __future__ import annotations

import math
import select
import time
from collections.abc import Callable

_LOOK_SECONDS = 2.0


def await_words(descriptor: int, look: Callable[[], object], deadline: float = math.inf) -> None:
    """Return when there is something to read, or the end; *look* is called every 2 s until then.

    Raises:
        TimeoutError: not before *deadline*, in seconds of the monotonic clock.
        what *look* raises.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    while not poll.poll(1000 * min(_LOOK_SECONDS, max(0, deadline - time.monotonic()))):
        if time.monotonic() >= deadline:
            raise TimeoutError("no answer")
        look()
