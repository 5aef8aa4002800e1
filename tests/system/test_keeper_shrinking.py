"""Windows of a live kernel mount that become shorter: cut by somebody, or emptied because they are wrong."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest
import xxhash

from chunk_store import sums
from chunk_store.keeper_client import ask_keeper
from chunk_store.sums import Sum
from chunk_store.verify import verify
from tests.system.kept_store import KIB, PAGE, KeptStore, Reading, Serving, Shown, content_of

pytestmark = pytest.mark.system


def test_who_cuts_a_watched_window_is_not_kept_waiting(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        window_id = shown.windows("f0")[0]
        store.fill(shown, window_id, 4 * PAGE)
        subprocess.run(["truncate", "-s", "0", store.window(window_id)], check=True, timeout=10)
        assert content_of(top / "f0") == shown.content("f0")


def test_a_window_that_was_cut_behind_the_mount_is_watched_and_filled_again(
    store: KeptStore, shown: Shown
) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        window_id = shown.windows("f0")[0]
        assert Reading(top / "f0", 0, 100).result() == shown.content("f0")[:100]
        os.truncate(store.window(window_id), 0)
        assert Reading(top / "f0", 60 * KIB, 100).result() == errno.EIO
        answered = ask_keeper(store.root, {"ask": "watch"})
        assert answered is not None and answered[0] == {"watched": 1}
        assert Reading(top / "f0", 60 * KIB, 100).result() == shown.content("f0")[60 * KIB : 60 * KIB + 100]


def test_what_the_disk_has_changed_under_a_mount_is_found_and_filled_again(
    store: KeptStore, shown: Shown
) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        window_id = shown.windows("f0")[0]
        assert Reading(top / "f0", 0, 100).result() == shown.content("f0")[:100]
        path, right = store.window(window_id), shown.right[window_id]
        written = path.stat()
        record = Sum(window_id, xxhash.xxh3_64_intdigest(right), len(right), written.st_mtime_ns)
        sums.append(store.root, [record])
        wrong = bytearray(right)
        wrong[60 * KIB] ^= 1
        locked = store.directory.try_lock(window_id, len(right))
        assert locked is not None
        locked.write(0, [bytes(wrong)])
        locked.close()
        assert verify(store.root).emptied == (window_id,)
        assert path.stat().st_ino == written.st_ino
        assert Reading(top / "f0", 60 * KIB, 100).result() == shown.content("f0")[60 * KIB : 60 * KIB + 100]
        assert verify(store.root).right == 1
