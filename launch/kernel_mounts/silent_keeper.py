"""Before windows are opened to be written: no keeper may be silent, for which the writer might wait."""

from __future__ import annotations

from pathlib import Path

from chunk_store.keeper_client import ASK_SECONDS, ask_within


def see_to_keeper(place: Path, root: Path) -> None:
    """Have the keeper of the store *place* of the state root *root* replaced if it is silent.

    Raises:
        KeeperFailed: that cannot be done.
    """
    if _is_silent(place):
        from launch.kernel_mounts.keeper_start import ensure_keeper

        ensure_keeper(place, root)


def _is_silent(place: Path) -> bool:
    try:
        ask_within(place, {"ask": "status"}, ASK_SECONDS)
    except TimeoutError:
        return True
    return False
