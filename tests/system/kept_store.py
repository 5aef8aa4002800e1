"""A store with a keeper of its own and images whose windows a test fills, or does not, word by word."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chunk_store import ChunkStore
from chunk_store.keeper_client import ask_keeper
from chunk_store.window_file import WindowDirectory
from erofs_fs.filler_link import FillerLink
from erofs_fs.holds import make_hold
from erofs_fs.keeper_program import KeeperProgram, start_keeper
from erofs_fs.keeper_words import NEED, Word
from erofs_fs.mount import attach
from erofs_fs.mount_table import mount_table
from launch.kernel_mounts.keeper_start import keeper_program
from launch.mountpoint import detach
from tests.support.images import Image, image_of
from tests.support.localised_images import Localised, localised, window_contents
from tests.support.trees import Entry, file, tree

PAGE = 4096
KIB, MIB = 1 << 10, 1 << 20
PATIENCE = 30.0  # seconds after which something that should happen is taken not to


def random_tree(seed: int, *, files: int = 6, size: int = 600 * KIB) -> Entry:
    """Files `f0`, `f1`, … of random bytes, each of several windows of `localised(…, run=2)`."""
    source = random.Random(seed)
    return tree(*(file(b"f%d" % number, source.randbytes(size)) for number in range(files)))


@dataclass
class Shown:
    """A localised image on the disk, and what is right."""

    made: Localised
    path: Path
    root: Entry
    right: dict[str, bytes]  # content of each window, by id

    def content(self, name: str) -> bytes:
        for entry in self.root.children:
            if entry.name == os.fsencode(name):
                return entry.content
        raise KeyError(name)

    def windows(self, name: str) -> list[str]:
        """Ids of the windows that hold the file *name*, in order."""
        bootstrap = self.made.bootstrap
        nid = bootstrap.lookup(bootstrap.inode(bootstrap.root_nid), os.fsencode(name))
        assert nid is not None
        found: list[str] = []
        for extent in bootstrap.extents(bootstrap.inode(nid)):
            for window in self.made.windows[extent.blob_index]:
                inside = window.start <= extent.blob_offset < window.start + window.length
                if inside and window.id not in found:
                    found.append(window.id)
        return found


@dataclass
class KeptStore:
    """Everything is taken away by `clear`."""

    base: Path
    reader_seconds: float = 0.0
    filler: list[str] = field(default_factory=lambda: ["/bin/true"])  # what the keeper starts
    number: int = 0

    def __post_init__(self) -> None:
        self.root = self.base / "store"
        ChunkStore(self.root).close()
        self.directory = WindowDirectory(self.root)
        self.pids: set[int] = set()

    @property
    def program(self) -> KeeperProgram:
        whole = keeper_program(self.root, self.base).command
        place = whole.index(str(self.root))
        return KeeperProgram([*whole[: place + 1], *self.filler], self.base / "keeper.log")

    def start(self, descriptors: dict[str, int] | None = None) -> int:
        """A keeper, as whose child the test counts."""
        os.environ["NOPULL_READER_SECONDS"] = str(self.reader_seconds)
        try:
            pid = start_keeper(self.program, descriptors or {}, os.environ)
        finally:
            del os.environ["NOPULL_READER_SECONDS"]
        self.pids.add(pid)
        return pid

    def status(self) -> dict[str, Any]:
        answered = ask_keeper(self.root, {"ask": "status"})
        assert answered is not None, "no keeper answers"
        return answered[0]

    def show(self, root: Entry, *, run: int = 2) -> Shown:
        """An image of *root* in windows of *run* chunks, with empty files for them."""
        image: Image = image_of(root, chunk_size=64 * KIB, batch_size=64 * KIB)
        made = localised(image, run=run)
        path = self.base / f"localised-{self.number}.erofs"
        self.number += 1
        path.write_bytes(made.raw)
        self.directory.reserve(device.id for device in made.devices)
        return Shown(made, path, root, window_contents(made, image.devices))

    def window(self, window_id: str) -> Path:
        return self.directory.path / window_id[:2] / window_id

    @contextmanager
    def link(self, requests: dict[str, Any] | None = None) -> Iterator[FillerLink]:
        link = FillerLink(self.root, self.program, requests or {})
        try:
            yield link
        finally:
            link.close()

    def mount(
        self, link: FillerLink, shown: Shown, name: str = "mountpoint", *, attached: bool = True
    ) -> Path:
        """A mount made by the keeper, as a filler and `nopull mount` would."""
        mountpoint = self.base / name
        mountpoint.mkdir(exist_ok=True)
        hold = make_hold(self.root, name, shown.path, {"of": name})
        link.say({"ask": "mount", "id": name, "image": str(shown.path), "request": {"of": name}})
        while True:
            said = link.hear()
            if isinstance(said, dict) and said.get("made") == name:
                break
        os.close(hold)
        assert "refused" not in said, said
        if attached:
            answered = ask_keeper(self.root, {"ask": "take", "mount": name})
            assert answered is not None and len(answered[1]) == 1, answered
            attach(answered[1][0], mountpoint)
            os.close(answered[1][0])
        return mountpoint

    def fill(self, shown: Shown, window_id: str, size: int | None = None) -> int:
        """Write the window's first *size* bytes, default: all, as a filler does; how many those are."""
        content = shown.right[window_id]
        end = len(content) if size is None else size
        locked = self.directory.try_lock(window_id, len(content))
        assert locked is not None
        locked.write(locked.size, [content[locked.size : end]])
        locked.close()
        return end

    def kill(self, pid: int) -> None:
        """kill -9, and wait until it is gone."""
        os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
        until(lambda: not Path(f"/proc/{pid}").exists())
        self.pids.discard(pid)

    def clear(self) -> None:
        for entry in reversed(mount_table()):
            if entry.mountpoint.is_relative_to(self.base):
                detach(entry.mountpoint, lazy=True)
        ask_keeper(self.root, {"ask": "end"})
        for pid in self.pids:
            with suppress(ProcessLookupError, ChildProcessError):
                os.kill(pid, signal.SIGTERM)
                os.waitpid(pid, 0)


class Serving:
    """A filler in a thread: fills what is needed with what is right, but for windows that are *held*."""

    def __init__(
        self, store: KeptStore, link: FillerLink, *shown: Shown, held: Iterable[str] = ()
    ) -> None:
        self._store = store
        self.link = link
        self._shown = shown
        self.needed: list[Word] = []
        self.held = set(held)
        self.ended = threading.Event()
        self._filling = threading.Lock()  # tests serve, too
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while (said := self.link.hear()) is not None:
            if isinstance(said, Word) and said.kind == NEED:
                self.needed.append(said)
                if said.window_id not in self.held:
                    self.serve(said.window_id)
        self.ended.set()

    def serve(self, window_id: str) -> None:
        """Fill the window and say so."""
        shown = next(one for one in self._shown if window_id in one.right)
        with self._filling:
            if self._store.directory.size(window_id) < len(shown.right[window_id]):
                self._store.fill(shown, window_id)
        self.link.have(window_id, len(shown.right[window_id]))


def content_of(path: Path) -> bytes:
    """All of a file, read by another process: the keeper lets nobody wait who fills."""
    return subprocess.run(["cat", path], stdout=subprocess.PIPE, check=True, timeout=PATIENCE).stdout


class Reading:
    """A read in a process of its own, which may be killed, and what came of it: bytes, or the errno."""

    def __init__(self, path: Path, offset: int, size: int, how: str = "pread") -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _READER, how, str(path), str(offset), str(size)],
            stdout=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdout is not None
        self.pid = self._process.pid
        assert self._process.stdout.read(1) == b"."

    @property
    def waits(self) -> bool:
        """Whether it has not come back, a moment after it began."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.15)
        return self._process.poll() is None

    def result(self) -> bytes | int:
        output, _ = self._process.communicate(timeout=PATIENCE)
        if self._process.returncode == -signal.SIGBUS:
            return 5
        assert self._process.returncode == 0, self._process.returncode
        return output[1:] if output[:1] == b"+" else int(output[1:])

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()


_READER = """
import mmap, os, sys
how, path, offset, size = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
descriptor = os.open(path, os.O_RDONLY)
if how == "mmap":
    mapped = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
os.write(1, b".")
try:
    if how == "pread":
        found = os.pread(descriptor, size, offset)
    elif how == "mmap":
        found = mapped[offset : offset + size]
    elif how == "sendfile":
        reading, writing = os.pipe()
        found = b""
        while len(found) < size:
            sent = os.sendfile(writing, descriptor, offset + len(found), min(65536, size - len(found)))
            found += os.read(reading, sent)
except OSError as error:
    os.write(1, b"-%d" % error.errno)
else:
    view = memoryview(b"+" + found)
    while view:
        view = view[os.write(1, view) :]
"""


def until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until *condition* is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it does not come true"
        time.sleep(0.01)

