"""Where the images made by other people's tools lie; tests only read them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FIXTURES = Path(os.environ.get("NOPULL_FIXTURES") or Path(__file__).parents[3] / "shared" / "fixtures")


def fixture(name: str) -> Path:
    """The fixture called *name*; skips the asking test, with the reason, where the collection is absent."""
    path = FIXTURES / name
    if not path.exists():
        pytest.skip(f"fixture collection not found at {path}; set NOPULL_FIXTURES")
    return path
