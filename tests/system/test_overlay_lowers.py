"""What containers do to the file system below them, over lowers of ext4, FUSE and EROFS alike.

The ext4 lower is the same image, unpacked: what is promised is what it does. The other two begin with nothing
local and no background, so whatever is read is fetched while somebody waits for it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import io
import json
import mmap
import os
import random
import shutil
import stat
import struct
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chunk_store.keeper_client import KEEPER
from erofs_fs.probe import probe_events
from launch import mounts
from launch.containers import overlay
from launch.kernel_mounts.keeper_start import end_keeper
from launch.umount import unmount
from tests.support.command import able, call, output_of
from tests.system.busybox_image import BUSYBOX, write_layout

pytestmark = pytest.mark.system

LOWERS = ("ext4", "fuse", "erofs")
PROGRAMS = ("id", "cat", "sort", "stat")
NOBODY = 65534
LINES = b"".join(b"%d\n" % number for number in random.Random(3).sample(range(100_000), 60_000))
LARGE = random.Random(5).randbytes(3_000_001)
SECRET = b"only for root\n"
TIME = 1_600_000_000
# linux/capability.h: VFS_CAP_REVISION_2 with the bit "effective"; CAP_DAC_READ_SEARCH permitted.
CAPABLE = struct.pack("<5I", 0x0200_0001, 1 << 2, 0, 0, 0)
CAPABILITIES = ["CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_SETGID"]


def contents() -> bytes:
    """A tar of Debian's programs with the libraries they are linked with, and of files to play with."""
    libraries: set[str] = set()
    for program in PROGRAMS:
        libraries.update(word for word in call("ldd", f"/usr/bin/{program}").split() if word[0] == "/")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:

        def add(
            name: str, content: bytes | None = None, mode: int = 0o644, *, group: int = 0,
            link: tuple[bytes, str] | None = None, **xattrs: bytes,
        ) -> None:  # fmt: skip
            member = tarfile.TarInfo(name)
            member.mode, member.mtime, member.gid, member.size = mode, TIME, group, len(content or b"")
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            if link is not None:
                member.type, member.linkname, member.size = *link, 0
            member.pax_headers = {
                f"SCHILY.xattr.{key.replace('__', '.')}": value.decode() for key, value in xattrs.items()
            }
            archive.addfile(member, io.BytesIO(content or b""))

        for name in ("bin", "usr", "usr/bin", "etc", "d", "d/deep", "d/empty", "proc", "dev", "sys"):
            add(name, mode=0o755)
        add("tmp", mode=0o1777)
        add("bin/busybox", BUSYBOX.read_bytes(), 0o755)
        add("bin/sh", link=(tarfile.SYMTYPE, "busybox"), mode=0o777)
        for path in [f"/usr/bin/{program}" for program in PROGRAMS] + sorted(libraries):
            parents = [str(parent)[1:] for parent in Path(path).parents][-2::-1]
            for parent in parents:
                if parent not in archive.getnames():
                    add(parent, mode=0o755)
            add(path[1:], Path(path).read_bytes(), 0o755)
        shows_ids = Path("/usr/bin/id").read_bytes()
        add("usr/bin/id-setuid", shows_ids, 0o4755)
        add("usr/bin/id-setgid", shows_ids, 0o2755, group=12)
        add("usr/bin/cat-capable", Path("/usr/bin/cat").read_bytes(), 0o755, security__capability=CAPABLE)
        add("etc/passwd", b"root:x:0:0::/:/bin/sh\n")
        add("etc/secret", SECRET, 0o600)
        add("etc/lines", LINES)
        add("usr/bin/script", b"#!/bin/sh\necho script $1\n", 0o755)
        add("d/large", LARGE, 0o640, group=12, user__colour=b"blue")
        add("d/one", b"one and two\n")
        add("d/two", link=(tarfile.LNKTYPE, "d/one"))
        add("d/soft", link=(tarfile.SYMTYPE, "one"), mode=0o777)
        for number in range(40):
            add(f"d/deep/f{number}", b"%d\n" % number * 50)
    return out.getvalue()


@dataclass(frozen=True)
class Sources:
    """The image, unpacked and to be mounted."""

    plain: Path
    lazy: str


@dataclass
class Lower:
    """What an overlay goes on top of."""

    kind: str
    directory: Path
    root: Path
    fetched_before: int = field(default=0)

    @property
    def fetched(self) -> int:
        """Bytes that are local by now."""
        return sum(path.stat().st_size for path in self.root.glob("windows/*/*"))

    def assert_was_cold(self) -> None:
        """What came since had to be fetched for it, where anything ever is."""
        if self.kind != "ext4":
            assert self.fetched > self.fetched_before
            self.fetched_before = self.fetched


@dataclass(frozen=True)
class Merged:
    """A writable overlay; its own directory is removed with it."""

    lower: Lower
    base: Path

    @property
    def top(self) -> Path:
        return self.base / "merged"

    @property
    def upper(self) -> Path:
        return self.base / "upper"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Sources:
    for program in ("runc", "ldd", "tar", *PROGRAMS):
        if shutil.which(program) is None:
            pytest.skip(f"needs the program {program}")
    if not BUSYBOX.exists():
        pytest.skip("needs the package busybox-static")
    base = tmp_path_factory.mktemp("sources")
    packed = contents()
    write_layout(base / "layout", {}, packed)
    output_of("convert", f"oci:{base}/layout:v1", f"oci:{base}/lazy:v1")
    (base / "plain").mkdir()
    how = ["--xattrs", "--xattrs-include=*", "--numeric-owner", "--delay-directory-restore", "-xpf", "-"]
    unpacking = ["tar", "-C", str(base / "plain"), *how]
    subprocess.run(unpacking, input=packed, check=True, capture_output=True)
    return Sources(base / "plain", f"oci:{base}/lazy:v1")


@contextmanager
def lowered(kind: str, sources: Sources, base: Path) -> Iterator[Lower]:
    if kind == "ext4":
        assert call("stat", "-f", "-c", "%T", sources.plain).strip() == "ext2/ext3"
        yield Lower(kind, sources.plain, base / "root")
        return
    if kind == "erofs":
        able(base, probe_events)
    lower = Lower(kind, base / "mountpoint", base / "root")
    lower.directory.mkdir()
    how = ["--driver", kind, "--no-background", "--root", str(lower.root)]
    output_of("mount", sources.lazy, lower.directory, *how)
    try:
        lower.fetched_before = lower.fetched
        yield lower
    finally:
        for record in mounts.records(lower.root):
            unmount(record.mountpoint, lower.root)
        if (lower.root / KEEPER).exists():
            end_keeper(lower.root)


@contextmanager
def overlaid(lower: Lower, base: Path) -> Iterator[Merged]:
    for name in ("upper", "work", "merged"):
        (base / name).mkdir()
    (base / "lower").symlink_to(lower.directory)
    overlay.mount_overlay(base)
    try:
        yield Merged(lower, base)
    finally:
        overlay.unmount(base / "merged")


@pytest.fixture(scope="module", params=LOWERS)
def shared(
    request: pytest.FixtureRequest, sources: Sources, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Lower]:
    with lowered(request.param, sources, tmp_path_factory.mktemp("lower")) as lower:
        yield lower


@pytest.fixture
def merged(shared: Lower, tmp_path: Path) -> Iterator[Merged]:
    """A new overlay over a mount that other tests have read from, too."""
    with overlaid(shared, tmp_path) as made:
        yield made


@pytest.fixture(params=LOWERS)
def cold(request: pytest.FixtureRequest, sources: Sources, tmp_path: Path) -> Iterator[Merged]:
    """A new overlay over a new mount, of which nothing was read."""
    with lowered(request.param, sources, tmp_path) as lower, overlaid(lower, tmp_path) as made:
        yield made


@dataclass(frozen=True)
class Container:
    """A bundle over an overlay, for runc."""

    bundle: Path
    state: Path

    @property
    def name(self) -> str:
        return f"lowers-{os.getpid()}"

    def runc(self, *words: str) -> str:
        return call("runc", "--root", self.state, *words)

    def run(self, *command: str, user: int = 0) -> str:
        self.configure(command, user)
        return self.runc("run", "--bundle", str(self.bundle), self.name)

    def configure(self, command: tuple[str, ...], user: int = 0) -> None:
        path = self.bundle / "config.json"
        path.unlink(missing_ok=True)
        call("runc", "spec", "--bundle", self.bundle)
        config = json.loads(path.read_text())
        config["root"] = {"path": str(self.bundle / "merged"), "readonly": False}
        held = {"permitted": CAPABILITIES, "effective": CAPABILITIES} if user == 0 else {}
        config["process"].update(
            terminal=False, args=list(command), user={"uid": user, "gid": user}, noNewPrivileges=False,
            capabilities={"bounding": CAPABILITIES, **held},
        )  # fmt: skip
        path.write_text(json.dumps(config))


def container_over(merged: Merged) -> Container:
    return Container(merged.base, merged.base / "runc")


def test_a_container_executes_what_is_fetched_while_it_starts(cold: Merged) -> None:
    container = container_over(cold)
    numbers = sorted(int(line) for line in LINES.split())
    said = container.run("/usr/bin/sort", "-n", "/etc/lines")
    assert said == "".join(f"{number}\n" for number in numbers)
    cold.lower.assert_was_cold()
    assert container.run("/usr/bin/script", "with an argument") == "script with an argument\n"


def test_a_program_is_executed_in_a_container_that_runs(cold: Merged) -> None:
    container = container_over(cold)
    container.configure(("/bin/busybox", "sleep", "100"))
    start = ["runc", "--root", str(container.state), "run", "--detach", "--bundle", str(container.bundle)]
    # What runs on has our output otherwise.
    null = subprocess.DEVNULL
    subprocess.run([*start, container.name], check=True, stdin=null, stdout=null, timeout=60)
    try:
        cold.lower.assert_was_cold()
        assert container.runc("exec", container.name, "/usr/bin/id", "-u") == "0\n"
        assert container.runc("exec", "--user", "7:8", container.name, "/usr/bin/id", "-g") == "8\n"
        script = "echo written >/d/new && busybox cat /d/new"
        assert container.runc("exec", container.name, "/bin/sh", "-c", script) == "written\n"
    finally:
        container.runc("delete", "--force", container.name)
    assert (cold.upper / "d/new").read_text() == "written\n"


def test_set_id_bits_and_file_capabilities_are_honoured(merged: Merged) -> None:
    container = container_over(merged)
    assert container.run("/usr/bin/id", "-u", user=NOBODY) == f"{NOBODY}\n"
    assert container.run("/usr/bin/id-setuid", "-u", user=NOBODY) == "0\n"
    assert container.run("/usr/bin/id-setuid", "-ru", user=NOBODY) == f"{NOBODY}\n"
    assert container.run("/usr/bin/id-setgid", "-g", user=NOBODY) == "12\n"
    assert container.run("/usr/bin/cat-capable", "/etc/secret", user=NOBODY) == SECRET.decode()
    with pytest.raises(AssertionError, match="Permission denied"):
        container.run("/usr/bin/cat", "/etc/secret", user=NOBODY)
    program = merged.top / "usr/bin/cat-capable"
    assert os.getxattr(program, "security.capability") == CAPABLE
    # Copied up with its owner's other rights; written to, it loses this one.
    program.chmod(0o711)
    assert os.getxattr(program, "security.capability") == CAPABLE
    assert container.run("/usr/bin/cat-capable", "/etc/secret", user=NOBODY) == SECRET.decode()
    with program.open("ab") as opened:
        opened.write(b"x")
    with pytest.raises(OSError, match="No data available"):
        os.getxattr(program, "security.capability")


def test_shared_libraries_are_mapped_while_they_are_absent(cold: Merged) -> None:
    libraries = sorted(path for path in cold.top.glob("lib/**/*.so*"))
    assert libraries
    for library in libraries:
        right = Path("/", library.relative_to(cold.top)).read_bytes()
        with library.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            pages = list(range(0, len(right), mmap.PAGESIZE))
            random.Random(8).shuffle(pages)
            for page in pages:
                end = page + mmap.PAGESIZE
                assert mapped[page:end] == right[page:end], (library, page)
    cold.lower.assert_was_cold()
    said = container_over(cold).run("/usr/bin/cat", "/proc/self/maps")
    for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
        assert any(name in line and " r-xp " in line for line in said.splitlines()), said


def described(top: Path) -> dict[str, tuple[object, ...]]:
    """All that can be asked of each file below *top* and is no matter of the file system's kind."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(top.rglob("*")):
        at = path.lstat()
        kind = stat.S_IFMT(at.st_mode)
        xattrs = {
            name: os.getxattr(path, name, follow_symlinks=False)
            for name in os.listxattr(path, follow_symlinks=False)
            if not name.startswith("trusted.overlay.")
        }
        content: object = None
        if kind == stat.S_IFREG:
            content = (at.st_size, at.st_nlink, path.read_bytes())
        elif kind == stat.S_IFLNK:
            content = path.readlink()
        named = str(path.relative_to(top))
        found[named] = (at.st_mode, at.st_uid, at.st_gid, at.st_mtime_ns, xattrs, content)
    return found


def test_every_file_has_its_attributes_and_bytes(merged: Merged, sources: Sources) -> None:
    assert described(merged.top) == described(sources.plain)


def test_inode_numbers_stay(merged: Merged) -> None:
    def numbers() -> dict[str, int]:
        found = {}
        for path in sorted(merged.top.rglob("*")):
            at = path.lstat()
            if not stat.S_ISDIR(at.st_mode):
                found[str(path)] = at.st_ino
        return found

    first = numbers()
    assert first[str(merged.top / "d/one")] == first[str(merged.top / "d/two")]
    assert len(set(first.values())) == len(first) - 1  # no other two are the same
    for directory in (merged.top / "d", merged.top / "d/deep"):
        for entry in os.scandir(directory):
            if not entry.is_dir():
                assert entry.inode() == first[entry.path]
    large = merged.top / "d/large"
    with large.open("rb") as opened:
        large.chmod(0o600)  # copied up
        assert os.fstat(opened.fileno()).st_ino == first[str(large)]
    assert os.listdir(merged.upper / "d") == ["large"]  # noqa: PTH208 - names are all that is wanted
    del first[str(large)]
    overlay.unmount(merged.top)
    shutil.rmtree(merged.base / "work")  # which says that the overlay was volatile
    (merged.base / "work").mkdir()
    overlay.mount_overlay(merged.base)
    again = numbers()
    del again[str(large)]
    assert again == first


def test_statfs_speaks_of_the_writable_layer(merged: Merged) -> None:
    top, upper = os.statvfs(merged.top), os.statvfs(merged.upper)
    assert (top.f_blocks, top.f_bsize, top.f_namemax) == (upper.f_blocks, upper.f_bsize, 255)
    assert not top.f_flag & (os.ST_RDONLY | os.ST_NOSUID)
    if merged.lower.kind != "ext4":
        below = os.statvfs(merged.lower.directory)
        assert below.f_flag & os.ST_RDONLY and not below.f_flag & os.ST_NOSUID
        assert (below.f_bfree, below.f_namemax) == (0, 255) and below.f_blocks > 0


def test_a_file_is_copied_up_with_all_it_has(cold: Merged) -> None:
    path = cold.top / "d/large"
    before = path.stat()
    os.utime(path)
    cold.lower.assert_was_cold()
    after = path.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)
    assert os.getxattr(path, "user.colour") == b"blue"
    assert path.read_bytes() == (cold.upper / "d/large").read_bytes() == LARGE
    assert (cold.lower.directory / "d/large").stat().st_mtime == TIME
    with path.open("r+b") as opened:
        opened.seek(1_000_000)
        opened.write(b"changed")
        opened.truncate(2_000_000)
    assert path.read_bytes() == LARGE[:1_000_000] + b"changed" + LARGE[1_000_007:2_000_000]
    assert (cold.lower.directory / "d/large").read_bytes() == LARGE


def test_a_file_that_is_being_read_and_mapped_stays_when_it_is_copied_up(merged: Merged) -> None:
    path = merged.top / "etc/lines"
    with path.open("rb") as opened, mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert opened.read(100) == LINES[:100]
        with path.open("ab") as writing:
            writing.write(b"more\n")
        assert opened.read() == LINES[100:] + b"more\n"
        assert mapped[:] == LINES
    assert path.read_bytes() == LINES + b"more\n"


def test_links_are_made_names_are_changed_and_files_are_removed(merged: Merged) -> None:
    top, upper = merged.top / "d", merged.upper / "d"
    (top / "third").hardlink_to(top / "deep/f3")
    if merged.lower.kind != "fuse":  # which has no UUID, by which overlayfs knows what was copied from where
        assert (top / "third").stat().st_ino == (top / "deep/f3").stat().st_ino
    assert (top / "deep/f3").stat().st_nlink == 2
    (top / "third").write_bytes(b"through the link")
    assert (top / "deep/f3").read_bytes() == b"through the link"
    assert (merged.lower.directory / "d/deep/f3").read_bytes() == b"3\n" * 50

    (top / "deep/f4").rename(top / "moved")
    assert (top / "moved").read_bytes() == b"4\n" * 50 and not (top / "deep/f4").exists()
    (top / "deep/f5").rename(top / "deep/f6")
    assert (top / "deep/f6").read_bytes() == b"5\n" * 50
    with pytest.raises(OSError) as refused:
        (top / "deep").rename(top / "elsewhere")
    assert refused.value.errno == errno.EXDEV  # of a directory below overlayfs says so, and `mv` copies
    (top / "empty").rmdir()
    (top / "soft").unlink()
    (top / "two").unlink()
    assert (top / "one").read_bytes() == b"one and two\n"
    for gone in ("deep/f4", "deep/f5", "empty", "soft", "two"):
        assert stat.S_ISCHR((upper / gone).lstat().st_mode), gone  # a whiteout
        assert not os.path.lexists(top / gone)
        assert os.path.lexists(merged.lower.directory / "d" / gone)
    (top / "empty").mkdir()
    assert os.getxattr(upper / "empty", "trusted.overlay.opaque") == b"y"
    shutil.rmtree(top / "deep")
    (top / "deep").mkdir()
    (top / "deep/f7").write_bytes(b"new")
    assert [entry.name for entry in (top / "deep").iterdir()] == ["f7"]
    left = {entry.name for entry in top.iterdir()}
    assert left == {"deep", "empty", "large", "moved", "one", "third"}


def test_a_file_without_a_name_gets_one(merged: Merged) -> None:
    descriptor = os.open(merged.top / "d", os.O_TMPFILE | os.O_RDWR, 0o640)
    try:
        os.write(descriptor, b"nameless")
        assert os.fstat(descriptor).st_nlink == 0
        named = merged.top / "d/named"
        # Only with a `dir_fd` Python asks for links to be followed.
        os.link(f"/proc/self/fd/{descriptor}", named, src_dir_fd=descriptor, follow_symlinks=True)
        assert named.read_bytes() == (merged.upper / "d/named").read_bytes() == b"nameless"
        assert os.fstat(descriptor).st_nlink == 1
    finally:
        os.close(descriptor)


_ACCESS, _MODIFY, _ATTRIB, _OPEN = 0x1, 0x2, 0x4, 0x20
_MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x40, 0x80, 0x100, 0x200


class Watch:
    """inotify(7) of paths: what has happened since it was asked last, as {(name, kind)}."""

    def __init__(self, *paths: Path) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self.descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        wanted = _ACCESS | _MODIFY | _ATTRIB | _OPEN | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
        self._names = {}
        for path in paths:
            number = libc.inotify_add_watch(self.descriptor, os.fsencode(path), wanted)
            assert number > 0, os.strerror(ctypes.get_errno())
            self._names[number] = "" if path.is_dir() else path.name

    def happened(self) -> set[tuple[str, int]]:
        try:
            raw = os.read(self.descriptor, 1 << 16)
        except BlockingIOError:
            return set()
        found = set()
        at = 0
        while at < len(raw):
            number, mask, _, size = struct.unpack_from("iIII", raw, at)
            name = raw[at + 16 : at + 16 + size].rstrip(b"\0").decode()
            found.add((name or self._names[number], mask & 0xFFF))
            at += 16 + size
        return found


def test_inotify_tells_of_the_merged_tree(merged: Merged) -> None:
    top = merged.top / "d"
    watch = Watch(top, top / "deep/f1")
    try:
        assert (top / "one").read_bytes() == b"one and two\n"
        assert {("one", _OPEN), ("one", _ACCESS)} <= watch.happened()
        with (top / "one").open("ab") as opened:  # copied up under the watch
            opened.write(b"three\n")
        assert {("one", _OPEN), ("one", _MODIFY)} <= watch.happened()
        with (top / "deep/f1").open("ab") as opened:
            opened.write(b"of the file itself\n")
        assert ("f1", _MODIFY) in watch.happened()
        (top / "one").chmod(0o600)
        (top / "new").write_bytes(b"")
        (top / "new").rename(top / "newer")
        (top / "soft").unlink()
        assert {
            ("one", _ATTRIB), ("new", _CREATE), ("new", _MOVED_FROM), ("newer", _MOVED_TO), ("soft", _DELETE),
        } <= watch.happened()  # fmt: skip
    finally:
        os.close(watch.descriptor)


def another_gets_lock(path: Path, call_name: str, *, exclusive: bool, writing: bool) -> bool:
    """Whether a process that asks for a lock of *path* gets it."""
    program = (
        "import fcntl, os, sys; descriptor = os.open(sys.argv[1], int(sys.argv[3]));"
        "getattr(fcntl, sys.argv[2])(descriptor, int(sys.argv[4]) | fcntl.LOCK_NB)"
    )
    flags = os.O_RDWR if writing else os.O_RDONLY
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    words = [sys.executable, "-S", "-c", program, str(path), call_name, str(int(flags)), str(int(kind))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0 or "BlockingIOError" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("call_name", ["flock", "lockf"])
def test_locks_keep_others_out_whatever_layer_the_file_is_in(merged: Merged, call_name: str) -> None:
    path = merged.top / "d/deep/f9"
    lock = getattr(fcntl, call_name)
    with path.open("rb") as opened:  # of the lower
        lock(opened, fcntl.LOCK_SH | fcntl.LOCK_NB)
        assert another_gets_lock(path, call_name, exclusive=False, writing=False)
        assert not another_gets_lock(path, call_name, exclusive=True, writing=True)  # which copies it up
        assert (merged.upper / "d/deep/f9").exists()
        assert not another_gets_lock(path, call_name, exclusive=True, writing=True)
        lock(opened, fcntl.LOCK_UN)
        assert another_gets_lock(path, call_name, exclusive=True, writing=True)
    with path.open("r+b") as opened:  # of the upper
        lock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert not another_gets_lock(path, call_name, exclusive=False, writing=False)
    assert another_gets_lock(path, call_name, exclusive=False, writing=False)
