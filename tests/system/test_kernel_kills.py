"""Kernel mounts whose keeper and filler are killed at random: right bytes or, when all are dead, an error."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.kills.kernel_run import LONGEST_WAIT, run
from tests.support.command import able

pytestmark = pytest.mark.system

KILLS = 50


def test_readers_of_a_kernel_mount_get_right_bytes_through_fifty_kills(tmp_path: Path) -> None:
    log = io.StringIO()
    tally = run(able(tmp_path), KILLS, 50, log)
    assert (tally.wrong, tally.failed, tally.complaints) == (0, 0, []), log.getvalue()
    assert sum(tally.kills.values()) == KILLS
    assert tally.hit_either >= KILLS / 2, "kills must hit somebody who waits, or a half written window"
    assert tally.longest_ms <= 1000 * LONGEST_WAIT
    assert min(tally.reads.values()) > 0 and len(tally.reads) == 4
