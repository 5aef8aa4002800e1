"""Do something in a child, which has a processor of its own: here it would stand in the way of other threads.

For work that computes and writes files, and neither logs nor waits for threads: those do not survive a fork.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Callable
from contextlib import suppress

from launch.error_relay import describe, rebuild
from launch.errors import ServerFailed


def apart(work: Callable[[], object]) -> None:
    """Return when *work* was done in a child.

    Raises:
        what it raised, as `error_relay` brings it here.
        ServerFailed: the child was killed.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)
    child = os.fork()
    if not child:
        gc.freeze()  # what the parent has is not ours to collect
        status = 1
        try:
            work()
            status = 0
        # Told to the parent.
        except BaseException as error:  # noqa: BLE001
            with suppress(BaseException):
                os.write(writing, json.dumps(describe(error)).encode())
        finally:
            os._exit(status)
    os.close(writing)
    with open(reading, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
        words = pipe.read()
    _, status = os.waitpid(child, 0)
    if words:
        raise rebuild(json.loads(words))
    code = os.waitstatus_to_exitcode(status)
    if code:
        raise ServerFailed(f"a child ended with {code}")
