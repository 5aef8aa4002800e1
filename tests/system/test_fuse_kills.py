"""FUSE mounts on one store whose servers are killed at random: right bytes or an error, nothing else."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from tests.kills.fuse_run import HELD, MOUNTS, run
from tests.kills.kernel_run import LONGEST_WAIT
from tests.support.command import able

pytestmark = pytest.mark.system

KILLS = 50


@pytest.mark.timeout(600)
def test_readers_of_two_mounts_get_right_bytes_through_fifty_kills(tmp_path: Path) -> None:
    log = io.StringIO()
    tally = run(able(tmp_path), KILLS, 50, log)
    assert (tally.wrong, tally.failed, tally.complaints) == (0, 0, []), log.getvalue()
    assert tally.killed == KILLS
    assert tally.hit_either >= KILLS / 2, "kills must hit an unanswered read, or a half written window"
    assert tally.longest_ms <= 1000 * LONGEST_WAIT
    assert all(len(tally.reads[where]) == 4 for where in (*MOUNTS, HELD))
    # The held mount found absent windows and, later, the same ones right.
    assert tally.absent > 0 and sum(tally.reads[HELD].values()) > tally.absent
