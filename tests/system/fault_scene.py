"""A store, FUSE mounts of one image on it, an EROFS mount held on it throughout, and readers of all of them
who check every byte.

A fault test does something to the store, its servers or its registry, and ends with `assert_right`. Readers
live in processes of their own and write down each read; servers are forks of the test, so what a test has
patched when it mounts is patched in them.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from chunk_store.window_file import WindowDirectory
from erofs_fs.mount_table import mount_table
from erofs_fs.pids import await_end
from fuse_fs.mount_options import FUSE_TYPE
from launch import mounts
from launch.fuse_mounts.server import start_mount
from launch.images.image_request import ImageRequest
from launch.images.lazy_image import open_image
from launch.mount_request import MountRequest
from launch.mountpoint import detach
from launch.mounts import MountRecord, State
from launch.umount import unmount
from rafs.windows import Window, cut_windows
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.kills.held import held
from tests.kills.reader import PROGRAM
from tests.launch.published import publish
from tests.support.images import image_of
from tests.support.trees import Entry, file, tree
from tests.system.busybox_image import BUSYBOX
from tests.system.kept_store import until

CHECKOUT = Path(__file__).parents[2]
PATIENCE = 30.0  # seconds: what the promise says, and what a test waits for anything
KIB = 1 << 10
HELD = "held"
# What a read may end with while something is wrong. ENOENT: nothing is mounted there at the moment.
ALLOWED = frozenset({errno.EIO, errno.ENOTCONN, errno.ECONNABORTED, errno.ENOENT})


@dataclass
class Scene:
    """Use `scene`. Windows lie below *store*, which may be a file system of its own."""

    base: Path
    store: Path
    files: dict[str, bytes] = field(default_factory=dict)
    reference: str = ""
    windows: list[Window] = field(default_factory=list)
    records: dict[str, MountRecord] = field(default_factory=dict)
    _readers: list[tuple[str, subprocess.Popen[bytes], Path]] = field(default_factory=list)

    def publish(self, where: str, *, files: int = 3, size: int = 500 * KIB) -> None:
        """The image, at *where*; each file lies in windows of its own, nearly."""
        source = random.Random(7)
        self.files = {f"f{number}": source.randbytes(size) for number in range(files)}
        self.files[PROGRAM] = BUSYBOX.read_bytes()
        right = self.base / "right"
        right.mkdir()
        entries: list[Entry] = []
        for name, content in self.files.items():
            (right / name).write_bytes(content)
            (right / name).chmod(0o755)
            entries.append(file(os.fsencode(name), content, mode=0o755))
        self.reference = publish(image_of(tree(*entries)), where, self.base).reference

    def place(self, where: str) -> Path:
        return self.base / f"at-{where}"

    def mount(
        self, where: str = "one", *, timeout: float = PATIENCE, background: bool = False
    ) -> MountRecord:
        """Through FUSE, by a fork of this process; a dead mount there is cleared away."""
        self.place(where).mkdir(exist_ok=True)
        options = RegistryOptions(timeout=timeout)
        image = ImageRequest(parse_reference(self.reference), options, background=background)
        request = MountRequest(image, self.place(where), self.store)
        record = self.records[where] = start_mount(request)
        return record

    def remount(self, where: str = "one") -> None:
        """Have a mount there, whatever has become of the one before."""
        record = self.records.get(where)
        if record is None or mounts.state_of(record) is not State.MOUNTED:
            self.mount(where)

    def unmount(self, where: str = "one") -> None:
        unmount(self.place(where), self.store, lazy=True)
        assert await_end(self.records.pop(where).server, PATIENCE)

    def kill(self, where: str = "one") -> None:
        record = self.records[where]
        with suppress(ProcessLookupError):
            os.kill(record.server, signal.SIGKILL)
        assert await_end(record.server, PATIENCE)

    @contextmanager
    def held(self) -> Iterator[None]:
        """An EROFS mount on all windows, absent or not, for as long as this is entered."""
        image = open_image(parse_reference(self.reference), RegistryOptions(), self.store)
        image.close()
        self.windows = [window for meta in image.blobs for window in cut_windows(meta)]
        with held(self.reference, self.store, self.place(HELD)):
            yield

    def window(self, number: int) -> Path:
        window_id = self.windows[number].id
        return self.store / "windows" / window_id[:2] / window_id

    @property
    def complete(self) -> bool:
        directory = WindowDirectory(self.store)
        present = [directory.size(window.id) == window.length for window in self.windows]
        directory.close()
        return all(present)

    def empty(self) -> None:
        """Cut all windows behind everybody's back, and let the kernel forget their pages."""
        for number in range(len(self.windows)):
            os.truncate(self.window(number), 0)
        self.drop_pages(HELD)

    def drop_pages(self, where: str) -> None:
        """Let the kernel forget the cached pages of a mount's files, as far as nobody maps them."""
        for name in self.files:
            with suppress(OSError):
                descriptor = os.open(self.place(where) / name, os.O_RDONLY)
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(descriptor)

    def look(self, *places: str) -> None:
        """Readers of these places from now on, who read at random in every way there is."""
        for where in places:
            log = self.base / f"reads-{where}-{len(self._readers)}"
            with log.open("wb") as output:
                words = ["tests.kills.reader", str(self.place(where)), str(self.base / "right"), where]
                reader = subprocess.Popen(
                    [sys.executable, "-m", *words],
                    cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=output, start_new_session=True,
                )  # fmt: skip
            self._readers.append((where, reader, log))

    def reads(self, where: str) -> list[tuple[str, int]]:
        """(verdict, milliseconds) of each read so far."""
        found = []
        for reading, _, log in self._readers:
            if reading == where:
                for line in log.read_text().splitlines(keepends=True):
                    if line.endswith("\n"):
                        words = line.split()
                        found.append((words[4], int(words[5])))
        return found

    def await_reads(self, where: str, count: int = 20) -> None:
        """Wait until there were *count* more reads there, and all of them are right."""
        before = len(self.reads(where))
        until(lambda: len(self.reads(where)) >= before + count)

    def stop_looking(self) -> None:
        """No readers any more; never a wrong byte, no other errors than are allowed, and nobody waited for
        longer than was promised."""
        places = {where for where, _, _ in self._readers}
        # What was done to them may be over before the first of them has been started.
        until(lambda: all(map(self.reads, places)))
        for _, reader, _ in self._readers:
            assert reader.stdin is not None
            with suppress(BrokenPipeError):
                reader.stdin.close()
        for where, reader, _ in self._readers:
            try:
                assert reader.wait(PATIENCE + 10) == 0
            except subprocess.TimeoutExpired:
                os.killpg(reader.pid, signal.SIGKILL)
                raise AssertionError(f"a reader of {where} does not come back") from None
        for where in places:
            reads = self.reads(where)
            unexpected = {verdict for verdict, _ in reads} - {"right", *map(str, ALLOWED)}
            assert unexpected == set(), (where, unexpected)
            assert max(taken for _, taken in reads) <= 1000 * PATIENCE, where
        self._readers.clear()

    def assert_shows(self, where: str) -> None:
        """Every byte there is right, by read, by readahead and mapped."""
        for name, content in self.files.items():
            with (self.place(where) / name).open("rb", buffering=0) as opened:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_SEQUENTIAL)
                assert opened.readall() == content, (where, name)
                with mmap.mmap(opened.fileno(), 0, prot=mmap.PROT_READ) as mapped:
                    assert mapped[:] == content, (where, name)

    def assert_right(self, *places: str) -> None:
        """What was done is over and needs nobody's hand: every byte is right, everywhere, for everybody."""
        for where in places or ("one",):
            self.remount(where)
            self.assert_shows(where)
        until(lambda: self.complete)
        self.drop_pages(HELD)
        self.assert_shows(HELD)

    def clear(self) -> None:
        for _, reader, _ in self._readers:
            with suppress(ProcessLookupError):
                os.killpg(reader.pid, signal.SIGKILL)
            reader.wait()
            assert reader.stdin is not None
            reader.stdin.close()
        for entry in reversed(mount_table()):
            if entry.fstype == FUSE_TYPE and entry.mountpoint.is_relative_to(self.base):
                detach(entry.mountpoint, lazy=True)
        for record in self.records.values():
            if mounts.server_lives(record):
                os.kill(record.server, signal.SIGKILL)
                await_end(record.server, PATIENCE)


@contextmanager
def scene(base: Path, where: str | None = None, store: Path | None = None) -> Iterator[Scene]:
    """An image at *where* (default: a layout), known here; an EROFS mount held on its absent windows."""
    made = Scene(base, store or base / "root")
    with ExitStack() as undo:
        undo.callback(made.clear)
        made.publish(where or f"oci:{base / 'layout'}:v1")
        made.mount()
        undo.enter_context(made.held())
        yield made
        made.stop_looking()


@contextmanager
def small_file_system(base: Path, *, size: int, inodes: int = 4096) -> Iterator[Path]:
    """An ext4 of its own, mounted."""
    image, place = base / "small.ext4", base / "small"
    with image.open("wb") as opened:
        opened.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-N", str(inodes), "-m", "0", image], check=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
