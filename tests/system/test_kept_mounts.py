"""Mounts that a keeper keeps: known by their holds, watched while they live, and let go of when they end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from chunk_store.keeper_client import ask_keeper
from chunk_store.window_file import Removal, WindowDirectory
from erofs_fs import fanotify, kept_mounts, syscalls
from erofs_fs.errors import MountFailed
from erofs_fs.holds import hold_path, lives, living, make_hold
from erofs_fs.mount import attach, detached
from erofs_fs.watched import WatchedWindows
from launch.kernel_mounts.keeper_start import lacking
from launch.mountpoint import detach, mount_at
from tests.system.kept_store import (
    KeptStore,
    Reading,
    Serving,
    Shown,
    content_of,
    random_tree,
    until,
)

pytestmark = pytest.mark.system


def test_a_mount_is_taken_up_although_its_image_was_made_anew(store: KeptStore, shown: Shown) -> None:
    """As another version of nopull does, which makes another file of it and removes this one."""
    keeper = store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        store.kill(keeper)
    shown.path.unlink()
    assert [hold.id for hold in lacking(store.root)] == ["mountpoint"]
    store.start()
    assert store.status()["mounts"] == {"mountpoint": len(shown.right)}
    with store.link() as link:
        Serving(store, link, shown)
        assert content_of(top / "f0") == shown.content("f0")
        assert [hold.image.read_bytes() for hold in living(store.root)] == [shown.made.raw]
        detach(top, lazy=False)
        until(lambda: store.status()["mounts"] == {})
        assert list(living(store.root)) == []
        assert list(hold_path(store.root, "").iterdir()) == []


def test_a_mount_in_use_stays_and_a_lazy_unmount_lets_readers_wait_on(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        serving = Serving(store, link, shown, held=shown.right)
        reading = Reading(top / "f0", 0, 100)
        until(lambda: store.status()["waiting"] == 1)
        assert subprocess.run(["umount", top], capture_output=True, check=False).returncode != 0
        detach(top, lazy=True)
        assert mount_at(top) is None
        assert reading.waits
        assert lives(hold_path(store.root, "mountpoint"))
        serving.serve(shown.windows("f0")[0])
        assert reading.result() == shown.content("f0")[:100]
        until(lambda: store.status()["mounts"] == {})
        assert not lives(hold_path(store.root, "mountpoint"))


def test_a_mount_is_known_by_its_hold_in_whatever_namespace(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        inside = subprocess.Popen(
            ["unshare", "-m", "--propagation", "private", "sh", "-c", f"echo in; read x; cat {top}/f0"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert inside.stdout is not None and inside.stdout.readline() == b"in\n"
        detach(top, lazy=False)
        assert mount_at(top) is None
        time.sleep(0.1)
        assert store.status()["mounts"] == {"mountpoint": len(shown.right)}
        output, _ = inside.communicate(b"go\n", timeout=20)
        assert output == shown.content("f0")
        until(lambda: store.status()["mounts"] == {})


def test_windows_of_a_mount_are_not_evicted(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        top = store.mount(link, shown)
        Serving(store, link, shown)
        assert content_of(top / "f0") == shown.content("f0")
        directory = WindowDirectory(store.root)
        assert {directory.remove(window_id) for window_id in shown.right} == {Removal.HELD}
        detach(top, lazy=False)
        until(lambda: store.status()["mounts"] == {})
        assert {directory.remove(window_id) for window_id in shown.right} == {Removal.REMOVED}
        directory.close()


def test_images_that_share_windows_are_watched_until_the_last_is_gone(store: KeptStore) -> None:
    one, two = (store.show(random_tree(3, files=3)) for _ in range(2))
    assert one.right.keys() == two.right.keys()
    store.start()
    with store.link() as link:
        first, second = store.mount(link, one, "one"), store.mount(link, two, "two")
        Serving(store, link, one, two)
        assert store.status()["windows"] == len(one.right)
        assert content_of(first / "f0") == one.content("f0")
        detach(first, lazy=False)
        until(lambda: list(store.status()["mounts"]) == ["two"])
        assert content_of(second / "f0") == one.content("f0")
        assert content_of(second / "f1") == one.content("f1")
        detach(second, lazy=False)
        until(lambda: store.status()["windows"] == 0)


def test_a_mount_that_nobody_takes_does_not_stay(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        store.mount(link, shown, attached=False)
        answered = ask_keeper(store.root, {"ask": "take", "mount": "mountpoint"})
        assert answered is not None
        os.close(answered[1][0])
        until(lambda: store.status()["mounts"] == {})
        again = ask_keeper(store.root, {"ask": "take", "mount": "mountpoint"})
        assert again is not None and "refused" in again[0] and not again[1]


def test_an_image_that_the_kernel_refuses_leaves_no_mark(store: KeptStore, shown: Shown) -> None:
    store.start()
    with store.link() as link:
        wrong = shown.windows("f0")[0]
        store.window(wrong).unlink()
        store.window(wrong).mkdir()
        with pytest.raises(AssertionError, match="refused"):
            store.mount(link, shown)
        store.window(wrong).rmdir()
        store.directory.reserve([wrong])
        broken = bytearray(shown.path.read_bytes())
        broken[1024 + 83] ^= 0x80  # a feature that no kernel has
        shown.path.write_bytes(broken)
        with pytest.raises(AssertionError, match="refused"):
            store.mount(link, shown, "second")
        status = store.status()
        assert (status["windows"], status["watched"], status["mounts"]) == (0, 0, {})


@pytest.mark.parametrize("watched_first", [False, True])
def test_a_window_that_is_freed_before_it_is_mounted_is_made_again(
    store: KeptStore, shown: Shown, monkeypatch: pytest.MonkeyPatch, watched_first: bool
) -> None:
    freed = shown.windows("f0")[0]

    def late(image: Path, windows: Path, window_ids: list[str], hold: Path) -> int:
        monkeypatch.setattr(kept_mounts, "detached", detached)
        assert store.directory.remove(freed) is Removal.REMOVED
        return detached(image, windows, window_ids, hold)

    if watched_first:
        monkeypatch.setattr(kept_mounts, "detached", late)
    else:
        assert store.directory.remove(freed) is Removal.REMOVED
    group, door = fanotify.open_group(), syscalls.open_tree_clone(bytes(store.directory.path))
    watched = WatchedWindows(group, door)
    mounts = kept_mounts.KeptMounts(store.root, watched, print)
    hold = make_hold(store.root, "m", shown.path, {})
    try:
        mounts.make("m", shown.path, {})
        window = watched.of_id(freed)
        assert window is not None and window.watched
        assert window.inode == store.window(freed).stat().st_ino
        made = mounts.untaken("m")
        assert made is not None
        mounts.taken(made)
    finally:
        for descriptor in (group, door, hold, mounts.descriptor):
            os.close(descriptor)


@pytest.mark.parametrize("times", [1, 100])
def test_a_window_that_is_replaced_while_it_is_mounted_is_watched_or_the_mount_refused(
    store: KeptStore, shown: Shown, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    replaced = shown.windows("f0")[0]
    calls = 0

    def late(image: Path, windows: Path, window_ids: list[str], hold: Path) -> int:
        nonlocal calls
        calls += 1
        if calls <= times:
            assert store.directory.remove(replaced) is Removal.REMOVED
            store.directory.reserve([replaced])
        return detached(image, windows, window_ids, hold)

    monkeypatch.setattr(kept_mounts, "detached", late)
    group, door = fanotify.open_group(), syscalls.open_tree_clone(bytes(store.directory.path))
    watched = WatchedWindows(group, door)
    mounts = kept_mounts.KeptMounts(store.root, watched, print)
    hold = make_hold(store.root, "m", shown.path, {})
    try:
        if times == 1:
            mounts.make("m", shown.path, {})
            window = watched.of_id(replaced)
            assert window is not None and window.watched
            assert window.inode == store.window(replaced).stat().st_ino
            assert store.directory.remove(replaced) is Removal.HELD
            made = mounts.untaken("m")
            assert made is not None and calls == 2
            mounts.taken(made)
        else:
            with pytest.raises(MountFailed, match="replaced each time"):
                mounts.make("m", shown.path, {})
            assert len(watched) == 0 and watched.watched == 0
    finally:
        for descriptor in (group, door, hold, mounts.descriptor):
            os.close(descriptor)


@pytest.mark.parametrize("killed", [False, True])
def test_a_mount_that_is_asked_for_twice_is_one(store: KeptStore, shown: Shown, killed: bool) -> None:
    """*killed*: the keeper, after it has made the mount, and nobody has taken that."""
    first = store.start()
    with store.link() as link:
        hold = make_hold(store.root, "m", shown.path, {})
        asked = {"ask": "mount", "id": "m", "image": str(shown.path), "request": {}}
        for again in (False, True):
            if again and killed:
                store.kill(first)
                while link.hear() is not None:
                    pass
                link.restore({})
                until(lambda: list(store.status()["mounts"]) == ["m"])  # by its hold
            link.say(asked)
            while (said := link.hear()) != {"made": "m"}:
                assert not isinstance(said, dict) or "refused" not in said
        os.close(hold)
        answered = ask_keeper(store.root, {"ask": "take", "mount": "m"})
        assert answered is not None
        (descriptor,) = answered[1]
        mountpoint = store.base / "mountpoint"
        mountpoint.mkdir()
        attach(descriptor, mountpoint)
        os.close(descriptor)
        Serving(store, link, shown)
        assert content_of(mountpoint / "f0") == shown.content("f0")
        assert len(store.status()["mounts"]) == 1
        detach(mountpoint, lazy=False)
        until(lambda: store.status()["mounts"] == {})
        assert (store.status()["windows"], store.status()["watched"]) == (0, 0)
