"""What can befall a store, its disk, its registry and its clock, while readers read and check every byte.

Each test ends with every byte right, by read, readahead and mapped, through FUSE and in an EROFS mount that
was held on the store from the beginning: nothing has to be done by hand.
"""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import chunk_store.checkpoint
import chunk_store.store
from launch.control import ask
from tests.support import command
from tests.support.command import able
from tests.support.debian_registry import DebianRegistry
from tests.support.hand_http import Reply, Request
from tests.support.scripted_registry import ScriptedRegistry
from tests.system.fault_scene import HELD, KIB, Scene, scene, small_file_system
from tests.system.kept_store import until

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]



@pytest.fixture
def made(tmp_path: Path) -> Iterator[Scene]:
    with scene(able(tmp_path)) as made:
        yield made


def nopull(made: Scene, *words: str) -> subprocess.CompletedProcess[str]:
    return command.nopull(*words, "--root", made.store)


def read_error(path: Path, offset: int = 0) -> int | None:
    """The errno of reading a page there; None: it could be read."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(descriptor, 4096, offset)
    except OSError as error:
        return error.errno
    finally:
        os.close(descriptor)
    return None


def whole(path: Path) -> bool:
    """Whether the file can be read."""
    try:
        return len(path.read_bytes()) > 0
    except OSError:
        return False


# Windows.


def test_what_is_absent_is_an_error_until_the_fuse_side_has_it(made: Scene) -> None:
    made.look(HELD)
    until(lambda: len(made.reads(HELD)) > 5)
    assert {verdict for verdict, _ in made.reads(HELD)} == {str(errno.EIO)}
    assert read_error(made.place(HELD) / "f0") == errno.EIO
    made.assert_shows("one")
    made.assert_right()


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 3)


def cut_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def grow(path: Path) -> None:
    with path.open("ab") as opened:
        opened.write(b"garbage" * 1000)


@pytest.mark.parametrize("damage", [cut, cut_to_nothing, grow])
def test_a_window_changed_behind_everybodys_back_is_made_right_in_place(
    made: Scene, damage: Callable[[Path], None]
) -> None:
    made.look("one", HELD)
    made.assert_right()
    inodes = [made.window(number).stat().st_ino for number in range(len(made.windows))]
    for _ in range(5):
        for number in range(len(made.windows)):
            damage(made.window(number))
        made.drop_pages("one")
        made.drop_pages(HELD)
        made.await_reads("one", 5)
        made.assert_shows("one")
        # What is right as far as it goes is served; who attaches the window next puts its length right.
        made.unmount()
        made.assert_right()
    assert [made.window(number).stat().st_ino for number in range(len(made.windows))] == inodes


def test_cached_pages_of_a_window_that_was_cut_stay_right_and_the_others_are_errors(made: Scene) -> None:
    made.assert_right()
    path = made.place(HELD) / "f1"
    made.drop_pages(HELD)
    assert read_error(path, 8192) is None
    for number in range(len(made.windows)):
        os.truncate(made.window(number), 0)
    with path.open("rb", buffering=0) as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert os.pread(opened.fileno(), 4096, 8192) == made.files["f1"][8192 : 8192 + 4096]
    assert read_error(path, 256 * KIB) == errno.EIO
    made.drop_pages("one")
    made.assert_right()


def unlink(path: Path) -> None:
    path.unlink()


def link_elsewhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("/etc/passwd")


def put_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [unlink, link_elsewhere, put_a_pipe])
def test_a_window_taken_away_or_replaced_is_fetched_again_and_a_mount_made_then_shows_it(
    made: Scene, damage: Callable[[Path], None]
) -> None:
    made.look("one", HELD)
    made.assert_right()
    for number in range(len(made.windows)):
        damage(made.window(number))
    made.unmount()
    made.mount()
    made.assert_shows("one")
    until(lambda: made.complete)
    assert not any(made.window(number).is_symlink() for number in range(len(made.windows)))
    # The old mount holds the old files, whose bytes are right as far as they go.
    made.assert_shows(HELD)
    assert Path("/etc/passwd").read_bytes().startswith(b"root")


def test_flipped_bits_are_found_by_verify_and_fetched_again_under_mounts(made: Scene) -> None:
    made.assert_right()
    made.unmount()  # with a checkpoint
    made.mount()
    path = made.window(1)
    content, inode = path.read_bytes(), path.stat().st_ino
    with path.open("r+b") as opened:
        opened.seek(len(content) // 2)
        opened.write(bytes([content[len(content) // 2] ^ 4]))
    found = nopull(made, "cache", "verify", "--json")
    assert found.returncode == 0
    assert json.loads(found.stdout)["emptied"] == [path.name]
    made.look("one", HELD)
    made.await_reads("one", 10)
    made.assert_right()
    assert (path.stat().st_ino, path.read_bytes()) == (inode, content)


def assert_right_after_boot(made: Scene) -> None:
    """Mount under another boot, in which the store is checked first, read, and leave nothing mounted."""
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(chunk_store.store, "current_boot", lambda: f"boot-{time.monotonic_ns()}")
            made.mount()
        made.look("one")
        made.await_reads("one", 10)
        made.assert_shows("one")
        made.unmount()
        made.stop_looking()
    finally:
        made.clear()


def test_flipped_bits_and_garbage_after_a_power_cut_are_dropped_before_anybody_reads(tmp_path: Path) -> None:
    """Held by no mount: a machine that was off has none."""
    with scene(able(tmp_path)) as made:
        made.assert_shows("one")
        until(lambda: made.complete)
        made.unmount()  # with a checkpoint
    before = {number: made.window(number).read_bytes() for number in range(len(made.windows))}
    source = random.Random(11)
    for round_number in range(3):
        kept = source.sample(sorted(before), len(before) // 2)
        for number, content in before.items():
            path = made.window(number)
            if number in kept:
                continue
            fate = source.choice(["gone", "zeros", "garbage", "short", "flipped"])
            flipped = bytes([content[0] ^ 1]) + content[1:]
            lost = {"zeros": bytes(len(content)), "garbage": source.randbytes(len(content)),
                    "short": content[: len(content) // 2], "flipped": flipped}  # fmt: skip
            path.unlink()
            if fate != "gone":
                path.write_bytes(lost[fate])
        assert_right_after_boot(made)
        assert {n: made.window(n).read_bytes() for n in before} == before, round_number


def test_a_power_cut_in_the_middle_of_a_fill_loses_nothing_but_time(tmp_path: Path) -> None:
    """What was completed since the last checkpoint is lost, or garbage of the right length."""
    with scene(able(tmp_path)) as made:
        made.assert_shows("one")
        made.kill()
    for number in range(len(made.windows)):
        path = made.window(number)
        if path.stat().st_size:
            path.write_bytes(random.Random(number).randbytes(path.stat().st_size))
    assert_right_after_boot(made)


def test_windows_whose_write_back_failed_are_emptied_and_fetched_again(made: Scene) -> None:
    made.look("one", HELD)
    made.unmount()
    failed = made.base / "failed"

    def failing(*_: object) -> None:
        if not failed.exists():
            failed.touch()
            raise OSError(errno.EIO, "the disk says no")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunk_store.checkpoint, "sync_filesystem", failing)
        patch.setattr(os, "fsync", _failing_for_windows(made, os.fsync))
        made.mount()
    made.assert_shows("one")
    until(lambda: made.complete)
    made.unmount()  # with a checkpoint, which fails
    assert failed.exists()
    until(lambda: not made.complete)
    made.assert_right()


def _failing_for_windows(made: Scene, original: Callable[[int], None]) -> Callable[[int], None]:
    us = os.getpid()
    windows = os.fspath(made.store / "windows") + "/"

    def fsync(descriptor: int) -> None:
        if os.getpid() != us and str(Path(f"/proc/self/fd/{descriptor}").readlink()).startswith(
            windows
        ):
            raise OSError(errno.EIO, "lost in write-back")
        original(descriptor)

    return fsync


# The disk.


@contextmanager
def on_small_disk(base: Path, *, size: int, inodes: int = 4096) -> Iterator[Scene]:
    with ExitStack() as undo:
        disk = undo.enter_context(small_file_system(base, size=size, inodes=inodes))
        # Logs lie elsewhere: they are open for writing, with which nothing turns read-only.
        (disk / "root").mkdir()
        (base / "log").mkdir()
        (disk / "root" / "log").symlink_to(base / "log")
        yield undo.enter_context(scene(base, store=disk / "root"))


def fill_up(place: Path) -> None:
    with (place / "ballast").open("wb") as opened:
        while True:
            try:
                opened.write(bytes(16 * KIB))
                opened.flush()
            except OSError as error:
                assert error.errno == errno.ENOSPC
                return


def use_up_inodes(place: Path) -> None:
    directory = place / "ballast"
    directory.mkdir()
    for number in range(100_000):
        try:
            (directory / str(number)).touch()
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return


def test_a_full_disk_costs_no_reader_a_byte(tmp_path: Path) -> None:
    with on_small_disk(able(tmp_path), size=24 << 20) as made:
        disk = made.store.parent
        fill_up(disk)
        made.look("one", HELD)
        for _ in range(3):
            made.drop_pages("one")
            made.assert_shows("one")
            made.await_reads("one", 5)
        assert not made.complete
        (disk / "ballast").unlink()
        made.drop_pages("one")
        made.assert_shows("one")
        made.unmount()
        made.assert_right()


def test_full_inodes_cost_no_reader_a_byte(tmp_path: Path) -> None:
    with on_small_disk(able(tmp_path), size=24 << 20, inodes=128) as made:
        disk = made.store.parent
        made.look("one")
        for number in range(len(made.windows)):
            made.window(number).unlink()
        use_up_inodes(disk)
        made.drop_pages("one")
        made.assert_shows("one")
        made.await_reads("one", 5)
        for path in (disk / "ballast").iterdir():
            path.unlink()
        made.unmount()
        made.mount()
        made.assert_shows("one")
        until(lambda: made.complete)


def test_a_disk_that_turns_read_only_and_back_costs_no_reader_a_byte(tmp_path: Path) -> None:
    with on_small_disk(able(tmp_path), size=24 << 20) as made:
        disk = made.store.parent
        made.look("one", HELD)
        (made.place("one") / "f0").read_bytes()
        until(lambda: ask(made.records["one"].control)["progress"]["windows_awaited"] == 0)
        until(lambda: remounted(disk, "ro"))
        made.drop_pages("one")
        made.assert_shows("one")
        made.await_reads("one", 5)
        assert remounted(disk, "rw")
        made.unmount()
        made.assert_right()


def remounted(place: Path, how: str) -> bool:
    """Whether the file system could be remounted; not while something is written."""
    words = ["mount", "-o", f"remount,{how}", str(place)]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


# The registry.


@contextmanager
def from_registry(base: Path) -> Iterator[tuple[Scene, DebianRegistry]]:
    with DebianRegistry() as registry, scene(base, f"docker://{registry.host}/app:v1") as made:
        yield made, registry


def test_a_registry_that_hangs_lets_readers_go_in_time_and_is_used_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    with from_registry(able(tmp_path)) as (made, registry):
        made.unmount()
        made.mount(timeout=3)
        os.kill(registry.pid, signal.SIGSTOP)
        try:
            made.look("one", HELD)
            assert read_error(made.place("one") / "f0") == errno.EIO
            until(lambda: len(made.reads("one")) > 0)
        finally:
            os.kill(registry.pid, signal.SIGCONT)
        until(lambda: read_error(made.place("one") / "f0") is None)
        made.await_reads("one", 5)
        made.assert_right()


def test_a_registry_that_is_gone_fails_reads_at_once_or_in_time_and_is_used_again_when_it_is_back(
    tmp_path: Path,
) -> None:
    with from_registry(able(tmp_path)) as (made, registry):
        made.unmount()
        made.mount(timeout=5)
        registry.stop()
        made.look("one", HELD)
        assert read_error(made.place("one") / "f0") == errno.EIO
        registry.start()
        # Reads that were begun before may still run out of time.
        until(lambda: all(whole(made.place("one") / name) for name in made.files))
        made.assert_right()


def cut_short(_: Request, reply: Reply) -> Reply:
    return replace(reply, cut=len(reply.body) // 2)


def flip_a_bit(_: Request, reply: Reply) -> Reply:
    body, middle = reply.body, len(reply.body) // 2
    return replace(reply, body=body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :])


def shift(_: Request, reply: Reply) -> Reply:
    return replace(reply, body=reply.body[1:] + reply.body[:1])


def fail(_: Request, __: Reply) -> Reply:
    return Reply(503)


def send_slowly(_: Request, reply: Reply) -> Reply:
    return replace(reply, cut=1000, stall=True)


@pytest.mark.parametrize("lie", [cut_short, flip_a_bit, shift, fail, send_slowly])
def test_a_registry_that_lies_gives_errors_and_right_bytes_when_it_is_honest_again(
    tmp_path: Path, lie: Callable[[Request, Reply], Reply]
) -> None:
    with ScriptedRegistry() as registry, scene(able(tmp_path), f"docker://{registry.host}/app:1") as made:
        made.unmount()
        made.mount(timeout=3)
        registry.lie(lie, r"GET .*/blobs/")
        made.look("one", HELD)
        files = [made.place("one") / name for name in made.files]
        found = {read_error(path, 256 * KIB) for path in files}
        # Of a reply that is wrong in one place, the rest is right, and is taken.
        assert found == {errno.EIO} or (lie in (cut_short, flip_a_bit) and found <= {errno.EIO, None})
        until(lambda: len(made.reads("one")) > 0)
        registry.honest()
        # Whoever joined a fill that was lied to gets its error, too.
        until(lambda: all(whole(path) for path in files))
        made.assert_right()


def test_clocks_that_jump_change_nothing(made: Scene) -> None:
    made.look("one", HELD)
    made.unmount()
    us, original, source = os.getpid(), time.time, random.Random(3)

    def jumping() -> float:
        year = 365 * 86400
        return original() if os.getpid() == us else original() + source.choice([-20, -1, 0, 1, 20]) * year

    for _ in range(3):
        made.empty()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(time, "time", jumping)
            made.mount(background=True)
        made.assert_right()
        made.unmount()
