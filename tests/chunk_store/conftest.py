"""What every store test gets: an empty directory and stores that are closed behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunk_store import ChunkStore, Limits
from tests.support.checkpoints import checkpoints_without_a_child

__all__ = ["checkpoints_without_a_child"]

OpenStore = Callable[..., ChunkStore]

# Retries and waits long enough to be real and short enough for a test.
QUICK = Limits(read_seconds=10.0, fetch_seconds=2.0, elsewhere_seconds=5.0)


@pytest.fixture
def open_store(tmp_path: Path) -> Iterator[OpenStore]:
    """Opens stores, by default all on one directory; closes them after the test."""
    opened: list[ChunkStore] = []

    def open_one(
        root: Path | None = None, *, limits: Limits = QUICK, boot_id: str | None = None
    ) -> ChunkStore:
        store = ChunkStore(root or tmp_path / "store", limits=limits, boot_id=boot_id)
        opened.append(store)
        return store

    yield open_one
    for store in opened:
        store.close()


@pytest.fixture
def store(open_store: OpenStore) -> ChunkStore:
    return open_store()
