"""Without network: what is known mounts at once, what is here is served, what is missing is said."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from chunk_store.recent_failures import STILL_FAILED_SECONDS
from launch import mounts
from launch.control import ask
from launch.fuse_mounts.server import start_mount
from launch.images.image_request import ImageRequest
from launch.mount_request import MountRequest
from launch.umount import unmount
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.support import command
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.trees import file, tree
from tests.system.kept_store import until

pytestmark = pytest.mark.system

PATIENCE = 20.0
"""Seconds in which a command must return: less than what is waited for a connection, or for an answer."""
CONTENT = os.urandom(6_000_000)
IMAGE = image_of(tree(file(b"large", CONTENT), file(b"small", b"small", blob=1)))


nopull = partial(command.nopull, timeout=PATIENCE)


@dataclass
class Known:
    """An image that was mounted from a registry that has been stopped; only `small` of it is here."""

    base: Path
    registry: DebianRegistry
    tag: str
    digest: str
    mountpoint: Path = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.base / "root"
        self.mountpoint = self.base / "mountpoint"
        self.mountpoint.mkdir()

    @property
    def port(self) -> int:
        return int(self.tag.split(":")[2].split("/")[0])

    def mount(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return nopull("mount", *arguments, self.mountpoint, "--root", self.root)

    def unmount(self) -> None:
        unmount(self.mountpoint, self.root)


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Known]:
    with DebianRegistry() as registry:
        tag = f"docker://{registry.host}/app:1"
        digest = publish(IMAGE, tag, tmp_path).manifest.digest
        place = Known(tmp_path, registry, tag, f"docker://{registry.host}/app@{digest}")
        assert place.mount("--no-background", tag).returncode == 0
        assert (place.mountpoint / "small").read_bytes() == b"small"
        place.unmount()
        registry.stop()
        try:
            yield place
        finally:
            for record in mounts.records(place.root):
                unmount(record.mountpoint, place.root, lazy=True)


@contextmanager
def dead_port(port: int) -> Iterator[None]:
    """Connecting to it hangs: its queue is full, so the kernel drops what asks for a place in it."""
    with socket.create_server(("127.0.0.1", port), backlog=0):
        fillers = []
        for _ in range(3):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
            fillers.append(filler)
        try:
            yield
        finally:
            for filler in fillers:
                filler.close()


class Listener:
    """Accepts, counts connections and what is asked, and never answers."""

    def __init__(self, port: int) -> None:
        self.requests: list[bytes] = []
        self._open: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", port))
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        try:
            line = connection.recv(4096).partition(b"\r\n")[0]
        except OSError:
            return
        if line:
            self.requests.append(line)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for connection in self._open:
            connection.close()


@pytest.mark.parametrize("name", ["tag", "digest"])
def test_a_known_image_mounts_although_connecting_hangs(known: Known, name: str) -> None:
    with dead_port(known.port):
        done = known.mount("--no-background", getattr(known, name))
        assert done.returncode == 0, done.stderr
        assert ("last known meaning" in done.stderr) == (name == "tag")
        assert (known.mountpoint / "small").read_bytes() == b"small"
        assert (known.mountpoint / "large").stat().st_size == len(CONTENT)


def test_a_registry_that_never_answers_is_asked_once_about_a_tag_and_never_about_a_digest(
    known: Known,
) -> None:
    with Listener(known.port) as silent:
        assert known.mount("--no-background", known.digest).returncode == 0
        assert (known.mountpoint / "small").read_bytes() == b"small"
        assert silent.requests == []
        known.unmount()
        done = known.mount("--no-background", known.tag)
        assert done.returncode == 0 and "does not answer" in done.stderr
        assert (known.mountpoint / "small").read_bytes() == b"small"
        assert silent.requests == [b"GET /v2/app/manifests/1 HTTP/1.1"]


def test_each_of_many_readers_waits_for_one_limit_for_a_registry_that_is_gone(tmp_path: Path) -> None:
    limit, readers = 4.0, 100
    files = [file(b"f%d" % number, os.urandom(40_000)) for number in range(readers)]
    ends: list[tuple[float, int | None]] = []

    def read(path: Path) -> None:
        began, code = time.monotonic(), None
        try:
            path.read_bytes()
        except OSError as error:
            code = error.errno
        ends.append((time.monotonic() - began, code))

    with DebianRegistry() as registry:
        reference = publish(image_of(tree(*files)), f"docker://{registry.host}/app:1", tmp_path).reference
        root, mountpoint = tmp_path / "root", tmp_path / "mountpoint"
        mountpoint.mkdir()
        options = RegistryOptions(timeout=limit)
        image = ImageRequest(parse_reference(reference), options, background=False)
        start_mount(MountRequest(image, mountpoint, root))
        try:
            registry.stop()
            paths = (mountpoint / f"f{number}" for number in range(readers))
            threads = [threading.Thread(target=read, args=(path,)) for path in paths]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(60)
        finally:
            unmount(mountpoint, root, lazy=True)
    assert {code for _, code in ends} == {errno.EIO} and len(ends) == readers
    # Who had to wait for somebody else's wait to end has waited for two.
    assert max(seconds for seconds, _ in ends) < 2 * limit


def test_an_unknown_image_needs_its_registry(known: Known) -> None:
    done = known.mount(f"{known.tag}-other")
    assert done.returncode == 3 and "cannot reach" in done.stderr


def test_what_is_here_is_served_and_what_is_missing_is_said_until_the_registry_is_back(known: Known) -> None:
    image = ImageRequest(parse_reference(known.tag), RegistryOptions(timeout=2))
    request = MountRequest(image, known.mountpoint, known.root)
    record = start_mount(request)
    large = known.mountpoint / "large"
    with pytest.raises(OSError, match="Input/output") as caught, large.open("rb", buffering=0) as reading:
        reading.read(1)
    assert caught.value.errno == errno.EIO
    assert (known.mountpoint / "small").read_bytes() == b"small"
    said = json.loads(nopull("explain", "--json", known.mountpoint, "--root", known.root).stdout)
    progress = said["progress"]
    assert progress["windows_present"] == 1 < progress["windows_total"]
    assert "127.0.0.1" in progress["trouble"]
    text = nopull("explain", known.mountpoint, "--root", known.root).stdout
    missing = progress["windows_total"] - 1
    assert f"missing  {missing} windows, 6.0 MB" in text and "trouble  " in text
    # The kernel's second question, after its readahead failed, neither waits nor says it again.
    lines = [line for line in record.log.read_text().splitlines() if "read /large" in line]
    assert len(lines) == 1 and "reading window 0 of blob" in lines[0]

    known.registry.start()
    time.sleep(STILL_FAILED_SECONDS)
    assert large.read_bytes() == CONTENT
    # A reader is answered from the verified prefix; the last window counts when its last byte is there.
    deadline = time.monotonic() + 10
    while not ask(record.control)["progress"]["complete"]:
        assert time.monotonic() < deadline, ask(record.control)["progress"]
    whole = nopull("explain", known.mountpoint, "--root", known.root).stdout
    assert "missing" not in whole


def test_it_is_said_why_readers_wait_for_a_closed_registry_and_in_one_line_that_they_failed(
    known: Known,
) -> None:
    image = ImageRequest(parse_reference(known.digest), RegistryOptions(timeout=2), background=False)
    record = start_mount(MountRequest(image, known.mountpoint, known.root))
    command = ["head", "-c1", str(known.mountpoint / "large")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as reading:
        until(lambda: "connection refused" in str(ask(record.control)["progress"]["trouble"]))
        assert b"Input/output error" in reading.communicate(timeout=20)[1]
    (line,) = [line for line in record.log.read_text().splitlines() if "ERROR" in line]
    assert f"read /large: ChunkUnavailable: reading window 0 of blob {IMAGE.blobs[0].id} " in line
    assert re.search(r"no answer within (2|1\.\d) s", line)
    assert f"cannot reach registry 127.0.0.1:{known.port} " in line and "connection refused" in line
