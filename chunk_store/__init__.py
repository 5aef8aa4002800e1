"""What is local of an image and what must be fetched: windows, fetched once, verified before written.

The names below are loaded when they are first used: a command that only asks where the store lies, and the
keeper, which has to stay small, load none of them.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chunk_store.attachment import Attachment
    from chunk_store.counters import ClassCount, Progress
    from chunk_store.errors import (
        ChunkCorrupt,
        ChunkUnavailable,
        RangeOutside,
        StoreError,
        StoreFull,
        StoreUnusable,
    )
    from chunk_store.limits import Limits
    from chunk_store.remote import BlobSource
    from chunk_store.standstill import Readers
    from chunk_store.store import ChunkStore

__all__ = [
    "Attachment",
    "BlobSource",
    "ChunkCorrupt",
    "ChunkStore",
    "ChunkUnavailable",
    "ClassCount",
    "Limits",
    "Progress",
    "RangeOutside",
    "Readers",
    "StoreError",
    "StoreFull",
    "StoreUnusable",
]

_ROOMS = {
    "Attachment": "attachment",
    "BlobSource": "remote",
    "ChunkStore": "store",
    "ClassCount": "counters",
    "Limits": "limits",
    "Progress": "counters",
    "Readers": "standstill",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOMS.get(name, 'errors')}"), name)
