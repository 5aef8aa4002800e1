"""`nopull cache ls` counts what is there and says no more than the directory can tell."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner

from chunk_store.cache_verbs import cache
from tests.chunk_store.blobs import ScriptedSource, random_blob
from tests.chunk_store.conftest import OpenStore

BLOB = random_blob("census", 2 << 20)


def test_it_tells_recorded_windows_from_recent_ones(open_store: OpenStore) -> None:
    store = open_store()
    assert store.attach([BLOB.meta], ScriptedSource(BLOB)).wait_complete(10)
    store.close()
    windows = sorted(store.root.glob("windows/*/*"))
    windows[0].write_bytes(b"")
    windows[1].write_bytes(b"partial")
    (windows[0].parent / "stray").write_text("")
    result = CliRunner().invoke(cache, ["ls", "--root", str(store.root), "--json"])
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    assert (found["complete"], found["unrecorded"], found["empty"]) == (len(windows) - 2, 1, 1)
    assert found["foreign"] == 1
    assert found["complete_bytes"] == sum(path.stat().st_size for path in windows[2:])
    assert found["disk_bytes"] >= found["complete_bytes"]


def test_a_store_that_is_not_there_is_empty(tmp_path: Path) -> None:
    result = CliRunner().invoke(cache, ["ls", "--root", str(tmp_path / "none")])
    assert result.exit_code == 0
    assert "0 windows" in result.stdout


def test_help_shows_an_example() -> None:
    assert "nopull cache ls" in CliRunner().invoke(cache, ["ls", "--help"]).stdout
