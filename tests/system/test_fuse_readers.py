"""Many readers of one FUSE mount."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest

from bench.read_times import forget_pages
from chunk_store.doorway import window_place
from chunk_store.open_windows import OpenWindows
from chunk_store.window_file import WindowDirectory
from launch.control import ask
from tests.launch.published import publish
from tests.support.debian_registry import DebianRegistry
from tests.support.images import image_of
from tests.support.trees import file, tree
from tests.system.test_fuse_mount import BIG, Place
from tests.system.test_fuse_mount import place as place  # a fixture

pytestmark = pytest.mark.system


def test_what_is_here_is_read_while_a_thousand_wait_for_what_is_not(place: Place) -> None:
    readers, here = 1100, BIG[:300_000]
    far = random.Random(2).randbytes((readers * 2 + 1000) * 4096)
    with DebianRegistry() as registry:
        name = f"docker://{registry.host}/app:1"
        publish(image_of(tree(file(b"a", here), file(b"far", far))), name, place.base)
        record = place.mount(name)
        with (place.mountpoint / "a").open("rb") as opened:
            assert opened.read() == here
            os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # it has to be asked for again
        os.kill(registry.pid, signal.SIGSTOP)
        program = [sys.executable, "-c", _MANY_READERS, str(place.mountpoint / "far"), str(readers)]
        with subprocess.Popen(program) as waiting:
            try:
                deadline = time.monotonic() + 20
                while ask(record.control)["asked"].get("read", 0) < readers:
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                found = subprocess.run(["cat", place.mountpoint / "a"], stdout=subprocess.PIPE, timeout=15)
                assert found.stdout == here
            finally:
                waiting.kill()
                os.kill(registry.pid, signal.SIGCONT)


def test_the_page_cache_tells_what_would_wait_for_the_disk(place: Place) -> None:
    window_id, content = "0f" * 32, random.Random(3).randbytes(1 << 20)
    directory = WindowDirectory(place.base)
    window = directory.try_lock(window_id, len(content))
    assert window is not None
    window.write(0, [content])
    window.close()
    windows, into = OpenWindows(directory), memoryview(bytearray(len(content)))

    def is_read(*, from_disk: bool) -> bool:
        into[:] = bytes(len(content))
        return windows.read_into(into, window_id, len(content), 0, from_disk=from_disk) and into == content

    assert is_read(from_disk=True) and is_read(from_disk=False)
    forget_pages(directory.path / window_place(window_id))
    assert not is_read(from_disk=False) and is_read(from_disk=True)
    windows.close()


# Readers of two pages each, behind the first thousand pages, where nothing is here.
_MANY_READERS = """
import os, sys, threading
opened = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(opened, 0, 0, os.POSIX_FADV_RANDOM)
threading.stack_size(1 << 16)
for number in range(int(sys.argv[2])):
    threading.Thread(target=os.pread, args=(opened, 8192, 4096 * 1000 + 8192 * number)).start()
"""
