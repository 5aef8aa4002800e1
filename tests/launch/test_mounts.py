"""Records of mounts, mountpoints, questions to servers, relayed errors: all that needs no mount."""

from __future__ import annotations

import errno
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from itertools import count
from pathlib import Path

import pytest

from chunk_store.errors import StoreUnusable
from chunk_store.place import default_root
from erofs_fs.pids import await_end, birth_of
from fuse_fs.errors import FuseMissing, MountpointInvalid
from launch import mountpoint, mounts, umount
from launch.control import QUESTION_LIMIT, ControlServer, ask
from launch.error_relay import describe, is_known, rebuild
from launch.errors import ImageNotConverted, NotMounted, ServerFailed, ServerSilent, StateUnusable
from launch.images.hot_list import hot_ranges
from launch.later import Later
from launch.mountpoint import prepare
from launch.mounts import MountRecord, State
from launch.root import state_directory
from rafs.bootstrap import Bootstrap
from rafs.errors import FormatUnsupported
from registry_client.errors import Unreachable
from tests.support.images import image_of
from tests.support.trees import directory, file, tree


def record(root: Path, place: Path, *, pid: int = 0, name: str = "aa", started: float = 1.0) -> MountRecord:
    pid = pid or os.getpid()
    return MountRecord(
        id=name,
        mountpoint=place,
        reference="registry.example/app:1",
        digest="sha256:" + "0" * 64,
        driver="fuse",
        pids={"server": pid},
        births={"server": birth_of(pid) or 0},
        started=started,
        device="0:9999",
        control=root / "run" / f"{name}.sock",
        log=root / "log" / f"{name}.log",
        config=root / "config.json",
    )


def test_a_record_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = record(tmp_path, tmp_path / "m")
    mounts.write_record(tmp_path, written)
    assert mounts.records(tmp_path) == [written]
    assert written.pinned == "registry.example/app:1@sha256:" + "0" * 64
    mounts.forget(tmp_path, written)
    mounts.forget(tmp_path, written)
    assert mounts.records(tmp_path) == []


@pytest.mark.parametrize("broken", [b"", b"[]", b"{}", b'{"id": 1', b'{"pids": 3, "id": "a"}', b"\xff"])
def test_a_broken_record_is_none(tmp_path: Path, broken: bytes) -> None:
    mounts.write_record(tmp_path, record(tmp_path, tmp_path / "m"))
    (tmp_path / "mounts" / "zz.json").write_bytes(broken)
    assert len(mounts.records(tmp_path)) == 1


def test_state_is_asked_of_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "m").mkdir()
    alive = record(tmp_path, tmp_path / "m")
    monkeypatch.setattr(mountpoint, "MOUNT_TABLE", str(tmp_path / "{}.table"))
    line = f"37 35 0:9999 / {tmp_path / 'm'} ro - fuse.nopull nopull:x ro\n"
    (tmp_path / f"{os.getpid()}.table").write_text(line)
    assert mounts.state_of(alive) is State.MOUNTED
    (tmp_path / f"{os.getpid()}.table").write_text("")
    assert mounts.state_of(alive) is State.DETACHED
    (tmp_path / "self.table").write_text("")
    child = subprocess.Popen([sys.executable, "-c", ""])
    ended = record(tmp_path, tmp_path / "m", pid=child.pid)
    assert await_end(child.pid, 30)
    # Not reaped yet: a zombie answers nobody either.
    assert mounts.state_of(ended) is State.GONE
    child.wait()
    assert mounts.state_of(ended) is State.GONE
    # A later mount with the same numbers, which answers.
    (tmp_path / "self.table").write_text(line)
    assert mounts.state_of(ended) is State.GONE


def test_another_process_with_the_same_number_is_not_the_server(tmp_path: Path) -> None:
    reused = mounts.from_json({**record(tmp_path, tmp_path).to_json(), "births": {"server": 1}})
    assert not mounts.server_lives(reused)


def test_records_of_what_is_gone_are_listed_once_and_removed(tmp_path: Path) -> None:
    mounts.write_record(tmp_path, record(tmp_path, tmp_path / "a", pid=999_999_999, name="gone"))
    mounts.write_record(tmp_path, record(tmp_path, tmp_path / "b", name="here", started=2.0))
    found = [(known.id, state) for known, state in umount.clean(tmp_path)]
    assert found == [("gone", State.GONE), ("here", State.DETACHED)]
    assert [known.id for known in mounts.records(tmp_path)] == ["here"]


def test_unmounting_what_is_not_mounted_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotMounted):
        umount.unmount(tmp_path, tmp_path / "root")
    with pytest.raises(NotMounted):
        umount.unmount(Path("/proc"), tmp_path / "root")


def test_mountpoints_that_cannot_be_used_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").write_bytes(b"")
    for name, words in [("gone", "mkdir"), ("file", "not a directory"), ("full", "not empty .it has")]:
        with pytest.raises(MountpointInvalid, match=words):
            prepare(tmp_path / name)
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert prepare(tmp_path / "link") == (tmp_path / "empty").resolve()


def test_a_question_is_answered_however_deep_the_root_lies(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 200)
    deep.mkdir()
    server = ControlServer(deep / "a.sock", lambda question: {"asked": question["ask"]})
    try:
        assert ask(deep / "a.sock") == {"asked": "status"}
        assert ask(deep / "a.sock", {"ask": "more"}) == {"asked": "more"}
        assert stat.S_IMODE((deep / "a.sock").stat().st_mode) == 0o600
    finally:
        server.close()
    assert not (deep / "a.sock").exists()
    with pytest.raises(ServerSilent):
        ask(deep / "a.sock")


@pytest.mark.parametrize(
    "question", [b"not JSON\n", b"[]\n", b"x" * (QUESTION_LIMIT + 10), b"", b'{"ask": 1}\n']
)
def test_bad_questions_and_failing_answers_do_not_end_the_answering(tmp_path: Path, question: bytes) -> None:
    def answer(asked: object) -> dict[str, object]:
        if asked != {"ask": "status"}:
            raise ValueError("a defect")
        return {"fine": True}

    server = ControlServer(tmp_path / "a.sock", answer)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "a.sock"))
            connection.sendall(question)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(100) == b""
        assert ask(tmp_path / "a.sock") == {"fine": True}
    except ConnectionResetError:
        assert ask(tmp_path / "a.sock") == {"fine": True}
    finally:
        server.close()


def test_a_defect_that_is_asked_for_again_and_again_is_one_traceback_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(_: object) -> dict[str, object]:
        raise ValueError("a defect")

    server = ControlServer(tmp_path / "a.sock", answer)
    try:
        for _ in range(10):
            with pytest.raises(ServerSilent):
                ask(tmp_path / "a.sock")
    finally:
        server.close()
    assert caplog.text.count("ValueError: a defect") == 1


def test_a_socket_left_by_a_dead_server_is_silent_and_replaced(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "a.sock"))
    with pytest.raises(ServerSilent, match=r"a\.sock"):
        ask(tmp_path / "a.sock")
    server = ControlServer(tmp_path / "a.sock", lambda _: {"new": 1})
    try:
        assert ask(tmp_path / "a.sock") == {"new": 1}
    finally:
        server.close()


@pytest.mark.parametrize(
    "error",
    [
        Unreachable("asking registry.example: refused"),
        ImageNotConverted("an ordinary image"),
        FuseMissing("install fuse3"),
        StoreUnusable("locked"),
        FormatUnsupported("ZRAN", "blob 0"),
    ],
)
def test_our_errors_arrive_as_what_they_are(error: Exception) -> None:
    assert is_known(error)
    arrived = rebuild(json.loads(json.dumps(describe(error))))
    assert type(arrived) is type(error) and str(arrived) == str(error)


def test_errors_of_the_system_keep_their_number_and_file() -> None:
    arrived = rebuild(json.loads(json.dumps(describe(PermissionError(errno.EACCES, "denied", "/file")))))
    assert isinstance(arrived, PermissionError)
    assert (arrived.errno, arrived.filename) == (errno.EACCES, "/file")


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("y")])
def test_a_defect_arrives_as_a_failed_server(error: Exception) -> None:
    assert not is_known(error)
    assert isinstance(rebuild(describe(error)), ServerFailed)


def test_nothing_else_is_ever_built_from_a_description() -> None:
    functions = [("os", "system"), ("launch.fuse_mounts.server", "start_mount"), ("launch.gone", "X")]
    for module, name in functions:
        assert isinstance(rebuild({"module": module, "name": name, "message": "m"}), ServerFailed)


def test_later_gives_its_result_or_its_error() -> None:
    assert Later(lambda: 5).result() == 5
    hold = threading.Event()
    later = Later(lambda: hold.wait() and 1 // 0)
    assert not later.ended
    hold.set()
    with pytest.raises(ZeroDivisionError):
        later.result()
    assert later.ended


def test_the_root_is_named_by_the_environment_or_the_user(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("NOPULL_ROOT", str(tmp_path))
    assert default_root() == tmp_path
    monkeypatch.delenv("NOPULL_ROOT")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_root() == Path("/var/lib/nopull")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_root() == tmp_path / "nopull"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")  # by its specification to be ignored
    assert default_root().is_absolute()
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/somebody")
    assert default_root() == Path("/home/somebody/.cache/nopull")


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_a_user_without_a_home_is_asked_for_a_root(monkeypatch: pytest.MonkeyPatch, home: str | None) -> None:
    for name in ("NOPULL_ROOT", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    if home is not None:
        monkeypatch.setenv("HOME", home)
    listed = pwd.getpwnam("nobody")
    monkeypatch.setattr(os, "geteuid", lambda: listed.pw_uid)
    assert default_root() == Path(listed.pw_dir) / ".cache/nopull"
    users = {one.pw_uid for one in pwd.getpwall()}
    monkeypatch.setattr(os, "geteuid", lambda: next(uid for uid in count(50000) if uid not in users))
    with pytest.raises(StoreUnusable, match=r"no home directory \(\$HOME\).*; name a place with --root$"):
        default_root()


def test_state_is_for_its_owner_only_and_never_inside_a_file(tmp_path: Path) -> None:
    made = state_directory(tmp_path / "root", "run")
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StateUnusable, match="--root"):
        state_directory(tmp_path / "file", "run")


def test_the_hot_list_is_the_prefetch_table_as_joined_ranges() -> None:
    long, other = os.urandom(200_000), os.urandom(5000)
    made = image_of(
        tree(file(b"a", long), directory(b"d", file(b"b", other), file(b"c", b"cc")), file(b"z", b"zz")),
        prefetch=[b"/z", b"/d", b"/a"],
    )
    found = hot_ranges(Bootstrap(made.bootstrap))
    content = made.devices[made.blobs[0].id]
    read = b"".join(content[offset : offset + size] for _, offset, size in found)
    assert read.startswith(b"zz") and read.endswith(long) and len(read) == 2 + 5000 + 2 + 200_000
    assert len(found) == 4


def test_an_image_that_prefetches_everything_has_no_hot_list() -> None:
    made = image_of(tree(file(b"a", b"a")), prefetch=[b"/"])
    assert hot_ranges(Bootstrap(made.bootstrap)) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
def test_records_of_another_user_are_not_taken_for_none() -> None:
    program = (
        "import os, sys; from pathlib import Path; from launch.mounts import records; os.setuid(65534)\n"
        "try: records(Path(sys.argv[1]))\n"
        "except PermissionError: print('refused')"
    )
    with tempfile.TemporaryDirectory() as name:  # `tmp_path` lies below what only root may enter
        root = Path(name)
        root.chmod(0o755)
        mounts.write_record(root, record(root, root / "m"))
        done = subprocess.run(
            [sys.executable, "-c", program, root], capture_output=True, text=True, check=True
        )
    assert done.stdout == "refused\n"
