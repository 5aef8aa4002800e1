"""A reader: `python -m tests.kills.reader MOUNT RIGHT SEED` reads pieces of MOUNT's files in every way
there is, and compares them with RIGHT's.

One line per read to standard output: `WAY FILE OFFSET SIZE VERDICT MILLISECONDS ENDED`; the verdict is
`right`, `wrong`, or the errno. A bus error is one of those. ENDED is in seconds of the monotonic clock, which
is every process's. Ends when its standard input does.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

WAYS = ("read", "mmap", "sendfile", "exec")
PROGRAM = "busybox"  # the file that is executed; the others are read
LARGEST = 300_000  # bytes of one piece


def read_once(way: str, path: Path, offset: int, size: int) -> bytes:
    """The bytes of *path* from *offset*, got in that *way*.

    Raises:
        OSError: with EIO also for what would have been a bus error.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if way == "read":
            found = b""
            # What is there before an absent page comes first, the error when that page is asked for.
            while len(found) < size:
                found += os.pread(descriptor, size - len(found), offset + len(found))
            return found
        if way == "sendfile":
            return _sent(descriptor, offset, size)
        return _mapped(descriptor, offset, size)
    finally:
        os.close(descriptor)


def _sent(descriptor: int, offset: int, size: int) -> bytes:
    reading, writing = os.pipe()
    found = bytearray()
    try:
        while len(found) < size:
            count = os.sendfile(writing, descriptor, offset + len(found), min(65536, size - len(found)))
            found += os.read(reading, count)
    finally:
        os.close(reading)
        os.close(writing)
    return bytes(found)


def _mapped(descriptor: int, offset: int, size: int) -> bytes:
    """In a child: a bus error ends who touches the page."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            mapped = mmap.mmap(descriptor, 0, mmap.MAP_PRIVATE, mmap.PROT_READ)
            left = memoryview(mapped[offset : offset + size])  # here the pages are touched
            while left:
                left = left[os.write(writing, left) :]
            os._exit(0)
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        found = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code:
        raise OSError(5 if code == -signal.SIGBUS else 1000 + code, f"the child ended with {code}")
    return found


def execute(path: Path, right: Path) -> bool:
    """Whether the program at *path*, which is the same as *right*, does what it should.

    Raises:
        OSError: it could not be started, or ended by a bus error.
    """
    try:
        done = subprocess.run([path, "echo", "right"], capture_output=True, check=False)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            raise
        # What execve says of a file that begins with other bytes, and of one whose program headers cannot be
        # read. Bytes that were wrong are in the page cache.
        with path.open("rb", buffering=0) as shown, right.open("rb", buffering=0) as wanted:
            if shown.read(mmap.PAGESIZE) != wanted.read(mmap.PAGESIZE):
                return False
        raise OSError(errno.EIO, "the headers of the program could not be had") from error
    if done.returncode in (-signal.SIGBUS, -signal.SIGSEGV, -signal.SIGKILL):
        # The kernel cannot give a page of it: which of them depends on where that is.
        raise OSError(5, "a page of the program could not be had")
    return done.stdout == b"right\n"


def main(arguments: list[str]) -> None:
    """Read until there is nobody to tell."""
    mount, right, seed = Path(arguments[0]), Path(arguments[1]), arguments[2]
    source = random.Random(seed)
    names = sorted(path.name for path in right.iterdir() if path.name != PROGRAM)
    while not select.select([sys.stdin], [], [], 0)[0]:
        way = source.choice(WAYS)
        name = PROGRAM if way == "exec" else source.choice(names)
        whole = (right / name).stat().st_size
        offset = source.randrange(whole)
        size = min(source.randrange(1, LARGEST), whole - offset)
        began = time.monotonic()
        try:
            if way == "exec":
                verdict = "right" if execute(mount / name, right / name) else "wrong"
            else:
                with (right / name).open("rb") as expected:
                    wanted = os.pread(expected.fileno(), size, offset)
                verdict = "right" if read_once(way, mount / name, offset, size) == wanted else "wrong"
        except OSError as error:
            verdict = str(error.errno)
        ended = time.monotonic()
        taken = 1000 * (ended - began)
        sys.stdout.write(f"{way} {name} {offset} {size} {verdict} {taken:.0f} {ended:.4f}\n")
        sys.stdout.flush()
        if verdict != "right":
            time.sleep(0.05)


if __name__ == "__main__":
    main(sys.argv[1:])
