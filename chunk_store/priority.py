"""Why a window is fetched: a reader waits, the hot list names it, or it is absent."""

from __future__ import annotations

from enum import IntEnum


class Priority(IntEnum):
    """Lower goes first."""

    DEMAND = 0
    HOT = 1
    BACKGROUND = 2


CLASSES = tuple(priority.name.lower() for priority in Priority)  # as counters and their documents call them
