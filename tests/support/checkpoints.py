"""Checkpoints made by the process that tests run in: for whoever tests something else than the child.

A fork copies the tables of all memory, here of every test that was loaded, and then each page that either
side writes to. That was two fifths of the processor time of all store tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from chunk_store import sums
from chunk_store.checkpoint import Checkpoints


@pytest.fixture(autouse=True)
def checkpoints_without_a_child(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no child make checkpoints, except for system tests and those marked `forks`."""
    if not any(map(request.node.get_closest_marker, ("system", "forks"))):
        monkeypatch.setattr(Checkpoints, "_record_elsewhere", _record_here)


def _record_here(checkpoints: Checkpoints, news: Sequence[sums.Sum]) -> object:
    return checkpoints._record(news)
