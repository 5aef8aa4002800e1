"""What is local of an image and what must be fetched: windows, fetched once, verified before written."""

from __future__ import annotations

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
from chunk_store.store import Attachment, ChunkStore

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
    "StoreError",
    "StoreFull",
    "StoreUnusable",
]
