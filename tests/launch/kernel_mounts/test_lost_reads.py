"""Reads that fail by the hundred are said in few lines, by one thread, which looks through an image once."""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from chunk_store import Attachment, ChunkStore, ChunkUnavailable
from chunk_store.fill import Listener
from chunk_store.scheduler import Scheduler
from erofs_fs.keeper_words import NEED, Word
from launch.images.image_request import ImageRequest
from launch.images.lazy_image import look_into, open_image
from launch.kernel_mounts import lost_reads
from launch.kernel_mounts.fillings import Fillings
from launch.kernel_mounts.lost_reads import LostReads
from launch.kernel_mounts.needs import Needs
from launch.kernel_mounts.shown_mounts import ShownMounts, image_name
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.chunk_store.blobs import eventually
from tests.launch.published import publish
from tests.support.images import Image, image_of
from tests.support.trees import file, tree

FILES = 8
GONE = ChunkUnavailable("the blob is gone")


@cache
def image_of_files() -> Image:
    source = random.Random(4)
    files = (file(b"f%d" % number, source.randbytes(1 << 20)) for number in range(FILES))
    return image_of(tree(*files), chunk_size=256 << 10, batch_size=1 << 20)


class Bench:
    """An image that is being filled, shown by a mount, and what is said of it."""

    def __init__(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        reference = parse_reference(publish(image_of_files(), f"oci:{base / 'layout'}:v1", base).reference)
        self.root = base / "root"
        image = open_image(reference, RegistryOptions(), self.root)
        request = ImageRequest(image.pinned, RegistryOptions(), background=False)
        self.mounts = ShownMounts()
        self.mounts.add("mount", request)
        self.store = ChunkStore(base / "store")
        self.fillings = Fillings(self.store, lambda _: None, lambda: None)
        begun = self.fillings.begin(image_name(request), lambda: image, background=False)
        self.windows = list(begun.result().numbers)
        self.looks = 0
        self.saying: set[int | None] = set()
        monkeypatch.setattr(lost_reads, "look_into", self.look_into)
        self.lost = LostReads(self.fillings, self.mounts, self.root)

    def look_into(self, request: ImageRequest, root: Path) -> object:
        self.looks += 1
        self.saying.add(threading.get_ident())
        return look_into(request, root)

    def fail(self, times: int = 1) -> None:
        for _ in range(times):
            for window in self.windows:
                self.lost.note(window, 4096, GONE)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    try:
        yield made
    finally:
        made.fillings.close()
        made.store.close()


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


def test_hundreds_of_lost_reads_are_a_line_a_window_one_thread_and_one_look(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    threads = threading.active_count()
    bench.fail(times=40)
    assert threading.active_count() <= threads + 1
    assert eventually(lambda: len(lines(caplog)) >= len(bench.windows))
    bench.fail(times=40)
    found = lines(caplog)
    assert len(found) == len(bench.windows)
    assert set(found) <= {f"read /f{number}: ChunkUnavailable: {GONE}" for number in range(FILES)}
    assert (bench.looks, len(bench.saying)) == (1, 1)


def test_windows_that_fail_one_after_another_without_end_are_a_few_lines_a_minute_and_a_number(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_reads, "MOST_LINES", 3)
    monkeypatch.setattr(lost_reads, "AGAIN_SECONDS", 0.01)
    lost = LostReads(bench.fillings, bench.mounts, bench.root)
    for window in bench.windows:
        lost.note(window, 4096, GONE)

    def counted() -> int:
        return sum(int(line.split()[0]) for line in lines(caplog) if line.endswith("more reads failed"))

    assert eventually(lambda: counted() == len(bench.windows) - 3)
    assert sum(line.startswith("read /f") for line in lines(caplog)) == 3


def test_readers_who_fail_by_the_hundred_are_told_at_once_and_cost_one_thread(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def when_local(_: Attachment, __: int, ___: int, listener: Listener) -> None:
        listener(GONE)

    monkeypatch.setattr(Attachment, "when_local", when_local)
    told: list[str] = []
    needs = Needs(
        bench.fillings, bench.mounts, bench.root,
        lambda _: None, lambda *_: None, lambda window, _: told.append(window),
    )  # fmt: skip
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def starting(thread: threading.Thread) -> None:
        started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    for _ in range(20):
        for window in bench.windows:
            needs.need(Word(NEED, window, 4096))
    assert len(started) == 1
    assert told == bench.windows * 20
    assert eventually(lambda: len(lines(caplog)) == len(bench.windows))


def test_who_was_too_late_is_told_of_with_what_stands_in_the_way_and_not_again_when_the_fetch_ends(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    listeners: list[Listener] = []
    monkeypatch.setattr(Attachment, "when_local", lambda _, __, ___, listener: listeners.append(listener))
    monkeypatch.setattr(Scheduler, "obstacle", lambda *_: ConnectionError("host.example: refused"))
    needs = Needs(
        bench.fillings, bench.mounts, bench.root, lambda _: None, lambda *_: None, lambda *_: None
    )
    needs.need(Word(NEED, bench.windows[0], 4096))
    needs.late(bench.windows[0], 4096, 0.0)
    needs.late("0" * 64, 4096, 0.0)
    assert eventually(lambda: len(lines(caplog)) == 2)
    monkeypatch.setattr(lost_reads, "AGAIN_SECONDS", 0.0)
    listeners[0](GONE)
    found = lines(caplog)
    assert found[0].startswith("read /f0: ChunkUnavailable: reading window 0 of blob ")
    assert "no answer within 0 s: host.example: refused" in found[0]
    assert "0" * 64 in found[1] and "its image is not open" in found[1]
    assert not needs._lost_reads._lost


def test_what_goes_on_failing_is_said_again_after_a_while(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_reads, "AGAIN_SECONDS", 0.01)
    bench.fail()
    assert eventually(lambda: len(lines(caplog)) == len(bench.windows))
    assert eventually(lambda: not bench.lost._is_saying)
    bench.fail()
    assert eventually(lambda: len(lines(caplog)) == 2 * len(bench.windows))
    assert bench.looks == 2


def test_of_more_windows_than_people_read_of_the_number_is_said(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lost_reads, "MOST_WINDOWS", 3)
    bench.fail()
    assert eventually(lambda: len(lines(caplog)) == 4)
    assert lines(caplog)[-1] == f"{len(bench.windows) - 3} more reads failed"


def test_that_reads_failed_is_said_also_when_nothing_can_be_told_of_them(
    bench: Bench, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: ImageRequest, __: Path) -> object:
        raise OSError("no room")

    monkeypatch.setattr(lost_reads, "look_into", fail)
    bench.fail()
    expected = f"reads of {len(bench.windows)} windows failed; of which files cannot be told: no room"
    assert eventually(lambda: lines(caplog) == [expected])


def test_an_image_whose_documents_are_here_is_looked_into_without_its_source(
    bench: Bench, tmp_path: Path
) -> None:
    (request,) = bench.mounts.requests().values()
    (tmp_path / "layout").rename(tmp_path / "elsewhere")
    bootstrap, blobs = look_into(request, bench.root)
    assert bytes(bootstrap.raw) == image_of_files().bootstrap
    assert [blob.id for blob in blobs] == [blob.id for blob in image_of_files().blobs]
