"""What every test of this folder gets: checkpoints that cost no fork."""

from __future__ import annotations

from tests.support.checkpoints import checkpoints_without_a_child

__all__ = ["checkpoints_without_a_child"]
