"""A file system that is really full: a small tmpfs."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from queue import Queue

import pytest

from chunk_store import ChunkStore, Readers, StoreError, StoreFull
from chunk_store.doorway import prepare_number
from tests.chunk_store.blobs import ScriptedSource, eventually, random_blob, unmount

pytestmark = pytest.mark.system
BLOB = random_blob("tmpfs", 6 << 20)
LOOK = """
import pathlib, sys
from chunk_store.doorway import Doorway
print(Doorway(pathlib.Path(sys.argv[1])).number)
"""


@pytest.fixture(params=["size=2m", "size=64m,nr_inodes=12"], ids=["blocks", "inodes"])
def small(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    subprocess.run(["mount", "-t", "tmpfs", "-o", request.param, "small", tmp_path], check=True)
    yield tmp_path
    unmount(tmp_path)


def test_readers_get_every_byte_from_a_full_file_system(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkStore(small / "store") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB))
        for offset in range(0, len(BLOB.plain), 100_000):
            assert (
                attachment.read(0, offset, 4096 if offset + 4096 < len(BLOB.plain) else 1)
                == (BLOB.plain[offset : offset + (4096 if offset + 4096 < len(BLOB.plain) else 1)])
            )
        told = r"cannot keep window \w+ in .*/store/windows: No space left on device \(.* free\); "
        with pytest.raises(StoreFull, match=told):
            attachment.wait_complete(10)
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == 1


def test_where_nobody_reads_a_full_disk_is_told_by_who_waits_for_all_and_by_nobody_else(
    small: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with ChunkStore(small / "store") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), readers=Readers.NONE)
        with pytest.raises(StoreFull, match="free some there"):
            attachment.wait_complete(10)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize("small", ["size=2m"], indirect=True)
def test_the_keepers_number_is_read_although_there_is_no_room(small: Path) -> None:
    prepare_number(small)
    with suppress(OSError):
        (small / "others").write_bytes(bytes(4 << 20))
    # In a process of its own, which a signal may end.
    done = subprocess.run([sys.executable, "-c", LOOK, small], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "0\n")


@pytest.mark.parametrize("small", ["size=16m"], indirect=True)
def test_who_needs_the_file_gets_it_once_there_is_room_again(small: Path) -> None:
    others = small / "others"
    with ChunkStore(small / "store") as store:
        source = ScriptedSource(BLOB)
        attachment = store.attach([BLOB.meta], source, background=False)
        attachment.make_files()
        with suppress(OSError):
            others.write_bytes(bytes(32 << 20))
        told: Queue[StoreError | None] = Queue()
        attachment.when_local(0, 100, told.put)
        assert isinstance(told.get(timeout=10), StoreFull)
        assert eventually(lambda: attachment.is_local(0, 0, 1)), "it is kept in memory"
        into = memoryview(bytearray(1000))
        assert attachment.read_into(into, 0, 0, from_disk=False) and into == BLOB.plain[:1000]
        requests = len(source.asked)
        attachment.when_local(0, 100, told.put)
        assert isinstance(told.get(timeout=10), StoreFull)
        assert len(source.asked) == requests, "nothing is fetched for a file that cannot be written"
        others.unlink()
        attachment.when_local(0, 100, told.put)
        assert told.get(timeout=10) is None


def test_files_that_cannot_be_made_beforehand_keep_nobody_from_reading(small: Path) -> None:
    with ChunkStore(small / "store") as store:
        attachment = store.attach([BLOB.meta], ScriptedSource(BLOB), background=False)
        attachment.make_files()
        assert attachment.read(0, 0, len(BLOB.plain)) == BLOB.plain
