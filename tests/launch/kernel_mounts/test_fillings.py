"""Images that are filled: each opened once, whoever asks; found by their windows; let go of when complete."""

from __future__ import annotations

import errno
import os
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from chunk_store import ChunkStore
from chunk_store.window_file import LockedWindow
from launch.errors import FillerEnds, ImageInvalid
from launch.images.lazy_image import LazyImage, open_image
from launch.kernel_mounts import fillings
from launch.kernel_mounts.fillings import Fillings
from rafs.windows import cut_windows
from registry_client.errors import Unreachable
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.chunk_store.blobs import eventually, wait_for
from tests.launch.published import publish
from tests.support.images import image_of
from tests.support.trees import file, tree

CONTENT = random.Random(2).randbytes(6 << 20)
Open = Callable[[], LazyImage]


class Bench:
    """Fillings of a store, and what they have said."""

    def __init__(self, base: Path) -> None:
        self.base = base
        self.store = ChunkStore(base / "store")
        self.present: list[str] = []
        self.changes = 0
        self.opened = 0
        self.fillings = Fillings(self.store, self.present.append, self.changed)

    def changed(self) -> None:
        self.changes += 1

    def published(self, name: str, content: bytes = CONTENT) -> Open:
        """What opens an image of one file."""
        image = image_of(tree(file(b"f", content)), chunk_size=256 << 10, batch_size=1 << 20)
        reference = parse_reference(publish(image, f"oci:{self.base / name}:v1", self.base).reference)

        def open_it() -> LazyImage:
            self.opened += 1
            return open_image(reference, RegistryOptions(), self.base / "root")

        return open_it

    def clear(self) -> None:
        self.fillings.close()
        self.store.close()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.clear()


def test_an_image_is_opened_once_however_many_ask_for_it(bench: Bench) -> None:
    opening, gate = bench.published("image"), threading.Event()

    def slowly() -> LazyImage:
        wait_for(gate)
        return opening()

    begun = [bench.fillings.begin("image", slowly, background=False) for _ in range(3)]
    assert bench.fillings.opening and bench.fillings.busy
    gate.set()
    first = begun[0].result()
    assert all(later.result() is first for later in begun)
    assert bench.fillings.begin("image", slowly, background=False).result() is first
    assert bench.fillings.of("image") is first
    assert bench.opened == 1 and bench.changes == 1
    assert not bench.fillings.opening


def test_what_another_process_has_completed_is_noticed_when_looked_for(bench: Bench) -> None:
    open_it = bench.published("image")
    filling = bench.fillings.begin("image", open_it, background=False).result()
    with ChunkStore(bench.base / "store") as other:
        image = open_it()
        assert other.attach(image.blobs, image.blob_source).wait_complete(20)
        image.close()
    assert bench.fillings.busy and bench.present == []
    before = bench.changes
    bench.fillings.look_again()
    assert not bench.fillings.busy
    assert sorted(bench.present) == sorted(filling.numbers) and bench.changes > before
    bench.fillings.look_again()
    assert len(bench.present) == len(filling.numbers)


def test_a_window_leads_to_the_image_that_has_it_and_can_be_waited_for(bench: Bench) -> None:
    names = ("one", "two")
    for number, name in enumerate(names):
        bench.fillings.begin(name, bench.published(name, CONTENT[number:]), background=False).result()
    for name in names:
        filling = bench.fillings.of(name)
        assert filling is not None and len(filling.numbers) > 1
        for window_id, number in filling.numbers.items():
            assert bench.fillings.find(window_id) == (filling, number)
    assert bench.fillings.find("0" * 64) is None
    filling = bench.fillings.of("two")
    assert filling is not None
    window_id, number = next(iter(filling.numbers.items()))
    told: list[object] = []
    filling.attachment.when_local(number, 4096, told.append)
    assert eventually(lambda: told == [None])
    assert eventually(lambda: window_id in bench.present)
    assert bench.fillings.complete() == [] and bench.fillings.busy


def test_what_is_complete_is_said_window_by_window_and_let_go_of(bench: Bench) -> None:
    filling = bench.fillings.begin("image", bench.published("image"), background=True).result()
    assert eventually(lambda: bench.fillings.complete() == [("image", filling)])
    assert eventually(lambda: bench.changes >= 2)  # opened, complete
    assert sorted(bench.present) == sorted(filling.numbers)
    assert not bench.fillings.busy
    bench.fillings.let_go("image")
    assert bench.fillings.of("image") is None and bench.fillings.complete() == []
    assert bench.fillings.find(bench.present[0]) is None


def test_what_cannot_be_opened_is_an_error_to_all_who_wait_and_opened_by_the_next(bench: Bench) -> None:
    opening, gate = bench.published("image"), threading.Event()

    def failing() -> LazyImage:
        wait_for(gate)
        raise ImageInvalid("broken")

    begun = [bench.fillings.begin("image", failing, background=False) for _ in range(2)]
    gate.set()
    for later in begun:
        with pytest.raises(ImageInvalid, match="broken"):
            later.result()
    assert bench.changes == 1  # somebody may wait for it to be open
    assert not bench.fillings.opening and bench.fillings.of("image") is None
    assert bench.fillings.begin("image", opening, background=False).result().numbers


def test_what_cannot_be_opened_is_not_tried_for_each_reader_and_soon_again(bench: Bench) -> None:
    opening, attempts = bench.published("image"), 0

    def failing() -> LazyImage:
        nonlocal attempts
        attempts += 1
        if attempts > 3:
            return opening()
        raise ImageInvalid("broken")

    began = time.monotonic()
    while bench.fillings.of("image") is None:
        begun = [bench.fillings.begin("image", failing, background=False) for _ in range(20)]
        for later in begun:
            with suppress(ImageInvalid):
                later.result()
    assert attempts == 4
    # Three rests; what is open, or another image, has none.
    assert 1.5 <= time.monotonic() - began < 10
    bench.fillings.begin("image", failing, background=False).result()
    assert attempts == 4


def test_an_image_whose_remote_is_away_is_tried_again_without_being_asked_for(bench: Bench) -> None:
    opening, attempts = bench.published("image"), 0

    def away() -> LazyImage:
        nonlocal attempts
        attempts += 1
        if attempts < 3:
            raise Unreachable("away")
        return opening()

    filling = bench.fillings.begin("image", away, background=False).result()
    assert attempts == 3 and bench.fillings.of("image") is filling


def test_an_image_that_somebody_has_open_is_taken_by_who_cannot_open_it(bench: Bench) -> None:
    opening, tried = bench.published("image"), threading.Event()

    def away() -> LazyImage:
        tried.set()
        raise Unreachable("away")

    first = bench.fillings.begin("image", away, background=False)
    wait_for(tried)
    second = bench.fillings.begin("image", opening, background=False, at_hand=True)
    third = bench.fillings.begin("image", away, background=False)
    assert first.result() is second.result() is third.result()
    assert bench.opened == 1


def test_an_image_whose_remote_stays_away_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fillings, "_OPENING_SECONDS", 0.7)

    def away() -> LazyImage:
        raise Unreachable("away")

    with pytest.raises(Unreachable):
        bench.fillings.begin("image", away, background=False).result()
    assert not bench.fillings.busy


def test_closing_ends_the_rest_of_what_could_not_be_opened(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fillings, "_REST_SECONDS", 1000.0)

    def failing() -> LazyImage:
        raise ImageInvalid("broken")

    with pytest.raises(ImageInvalid):
        bench.fillings.begin("image", failing, background=False).result()
    again = bench.fillings.begin("image", failing, background=False)
    assert not again.ended
    bench.fillings.close()
    with pytest.raises(FillerEnds):
        again.result()


def test_letting_go_closes_the_images_connections_once(bench: Bench) -> None:
    opening = bench.published("image")
    closed: list[int] = []

    class Counted:
        def close(self) -> None:
            closed.append(1)

    def counted() -> LazyImage:
        image = opening()
        image.close()
        return replace(image, source=Counted())  # type: ignore[arg-type]

    bench.fillings.begin("image", counted, background=False).result()
    assert closed == []
    bench.fillings.let_go("image")
    bench.fillings.let_go("image")
    bench.fillings.close()
    assert closed == [1]


def test_windows_that_two_images_share_stay_until_both_are_let_go(bench: Bench) -> None:
    one = bench.fillings.begin("one", bench.published("one"), background=False).result()
    two = bench.fillings.begin("two", bench.published("two"), background=True).result()
    assert one.numbers == two.numbers
    assert eventually(lambda: set(bench.present) == set(one.numbers))
    bench.fillings.let_go("one")
    window_id = next(iter(two.numbers))
    assert bench.fillings.find(window_id) == (two, two.numbers[window_id])
    bench.fillings.let_go("two")
    assert bench.fillings.find(window_id) is None


def test_windows_of_an_image_are_those_of_its_blobs(bench: Bench) -> None:
    opening = bench.published("image")
    image = opening()
    ids = [window.id for meta in image.blobs for window in cut_windows(meta)]
    image.close()
    filling = bench.fillings.begin("image", opening, background=False).result()
    assert list(filling.numbers) == ids


def test_the_background_begins_when_one_asks_for_it(bench: Bench) -> None:
    opening = bench.published("image")
    filling = bench.fillings.begin("image", opening, background=False).result()
    assert not filling.attachment.complete
    assert bench.fillings.begin("image", opening, background=True).result() is filling
    eventually(lambda: filling.attachment.complete)


def test_a_full_disk_is_told_of_as_kernel_mounts_see_it(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(LockedWindow, "write", full)
    filling = bench.fillings.begin("image", bench.published("image"), background=True).result()
    assert eventually(lambda: filling.attachment.progress().trouble is not None)
    assert "kernel mounts meanwhile answer" in (filling.attachment.progress().trouble or "")
