"""What tests of the keeper get: a store with a keeper's way of life, and an image that it shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from erofs_fs.probe import probe_events
from tests.support.command import able
from tests.system.kept_store import KeptStore, Shown, random_tree


@pytest.fixture
def store(tmp_path: Path) -> Iterator[KeptStore]:
    made = KeptStore(able(tmp_path, probe_events))
    try:
        yield made
    finally:
        made.clear()


@pytest.fixture
def shown(store: KeptStore) -> Shown:
    return store.show(random_tree(1))
