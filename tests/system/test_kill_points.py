"""kill -9 of keeper, filler or both at every step of a fill, while somebody reads, maps, sends and executes.

With a keeper or a filler alive no read fails. When both are dead what is absent is an error, never zeros,
until `nopull` is called.
"""

from __future__ import annotations

import errno
import os
import random
import signal
import struct
import subprocess
import sys
import time

import pytest

from chunk_store.recent_failures import STILL_FAILED_SECONDS
from erofs_fs.pids import is_stopped
from launch.kernel_mounts.keeper_start import keeper_status
from tests.kills.armed import FILLER_STEPS, KEEPER_STEPS
from tests.support.command import CHECKOUT
from tests.support.trees import Entry, file, tree
from tests.system.kept_store import Reading, until
from tests.system.test_lazy_kernel_mount import Place, place

__all__ = ["place"]  # a fixture is found by its name here

pytestmark = [pytest.mark.system, pytest.mark.timeout(300)]

STEPS = [*KEEPER_STEPS, *FILLER_STEPS]
SIZE = 3 << 20  # more than a window has, so that each step has one of its own
VICTIMS = [("keeper",), ("filler",), ("keeper", "filler"), ("filler", "keeper")]
WAYS = ("pread", "mmap", "sendfile")


def program(padding: bytes) -> bytes:
    """An ELF file for x86-64 that prints "right"; *padding* makes it different from all others."""
    code = bytes.fromhex(
        "b801000000 bf01000000 488d3510000000 ba06000000 0f05"  # write(1, text behind the code, 6)
        "b83c000000 31ff 0f05"  # exit(0)
    )
    content = code + b"right\n" + padding
    base, head = 0x400000, 64 + 56
    elf = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 2, 62, 1, base + head, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    load = struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, head + len(content), head + len(content), 4096)
    return elf + load + content


def contents() -> dict[str, bytes]:
    source = random.Random(21)
    found = {}
    for number in range(len(STEPS)):
        found[f"f{number:02}"] = source.randbytes(SIZE)
        found[f"p{number:02}"] = program(source.randbytes(200_000))
    return found


class Armed:
    """A mount whose processes stop where they are told to."""

    def __init__(self, place: Place, right: dict[str, bytes]) -> None:
        self.place = place
        self.right = right
        self.control = place.base / "control"
        self.reached = place.base / "control.reached"
        entries: list[Entry] = [file(name.encode(), raw, mode=0o755) for name, raw in right.items()]
        self.where = place.base / "mountpoint"
        self.where.mkdir()
        reference = place.publish(tree(*entries))
        self.nopull("mount", reference, str(self.where), "--driver", "erofs", "--no-background")

    def nopull(self, *words: str) -> None:
        command = [sys.executable, "-m", "tests.kills.armed", str(self.control), *words]
        done = subprocess.run(
            [*command, "--root", str(self.place.root)], cwd=CHECKOUT, capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done

    def stop_at(self, step: str) -> None:
        new = self.control.with_suffix(".new")
        new.write_text(step)
        new.rename(self.control)

    def await_stopped(self) -> int:
        until(self.reached.exists)
        pid = int(self.reached.read_text())
        self.reached.unlink()
        until(lambda: is_stopped(pid))
        return pid

    def read(self, number: int) -> dict[str, bytes | int]:
        """What each way of reading what belongs to the step gives: bytes, or the errno."""
        return self.results(*self.begin(number))

    def begin(self, number: int) -> tuple[list[Reading], subprocess.Popen[bytes]]:
        readings = [
            Reading(self.where / f"f{number:02}", at << 20, 500_000, how) for at, how in enumerate(WAYS)
        ]
        executing = subprocess.Popen(
            ["/bin/sh", "-c", f"exec {self.where}/p{number:02}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        return readings, executing

    def results(
        self, readings: list[Reading], executing: subprocess.Popen[bytes]
    ) -> dict[str, bytes | int]:
        found: dict[str, bytes | int] = dict(
            zip(WAYS, (reading.result() for reading in readings), strict=True)
        )
        said, errors = executing.communicate(timeout=30)
        failed = b"Input/output error" in errors or executing.returncode in (-signal.SIGBUS, -signal.SIGSEGV)
        found["exec"] = errno.EIO if failed else said
        return found

    def expected(self, number: int) -> dict[str, bytes | int]:
        raw = self.right[f"f{number:02}"]
        pieces = {how: raw[at << 20 : (at << 20) + 500_000] for at, how in enumerate(WAYS)}
        return {**pieces, "exec": b"right\n"}


def is_right_or_error(found: bytes | int, expected: bytes | int) -> bool:
    """Whether it is right, or an error behind what is right."""
    if found == errno.EIO:
        return True
    return isinstance(found, bytes) and isinstance(expected, bytes) and b"" != found == expected[: len(found)]


@pytest.mark.parametrize("victims", VICTIMS, ids="-then-".join)
def test_killed_at_any_step_of_a_fill_they_leave_readers_right_bytes_or_an_error(
    place: Place, victims: tuple[str, ...]
) -> None:
    if os.uname().machine != "x86_64":
        pytest.skip("the program that is executed is for x86-64")
    armed = Armed(place, contents())
    for number, step in enumerate(STEPS):
        pids = dict(zip(("keeper", "filler"), place.pids(), strict=True))
        armed.stop_at(step)
        readings, executing = armed.begin(number)
        stopped = armed.await_stopped()
        assert stopped == pids["keeper" if step in KEEPER_STEPS else "filler"], step
        for victim in victims:
            os.kill(pids[victim], signal.SIGSTOP)  # nobody starts the next one in between
        for victim in victims:
            os.kill(pids[victim], signal.SIGKILL)
        for name in pids.keys() - set(victims):
            os.kill(pids[name], signal.SIGCONT)
        found = armed.results(readings, executing)
        expected = armed.expected(number)
        if len(victims) == 1:
            assert {way for way in found if found[way] != expected[way]} == set(), step
        else:
            wrong = {way: raw for way, raw in found.items() if not is_right_or_error(raw, expected[way])}
            assert wrong == {}, step
            assert keeper_status(place.root) is None
            armed.nopull("ps")
            time.sleep(STILL_FAILED_SECONDS)
            found = armed.read(number)
            assert {way for way in found if found[way] != expected[way]} == set(), step
