"""`nopull cache gc`: frees what it says, the least recently attached first, and nothing that is held."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from chunk_store.attached import NAME
from chunk_store.byte_size import byte_size, human_size
from chunk_store.cache_verbs import cache
from tests.chunk_store.blobs import Blob, ScriptedSource, eventually, random_blob
from tests.chunk_store.conftest import OpenStore

OLD, NEW = random_blob("old", 3 << 20), random_blob("new", 3 << 20)


def gc(root: Path, *options: str) -> dict[str, int]:
    result = CliRunner().invoke(cache, ["gc", "--root", str(root), "--json", *options])
    assert result.exit_code == 0, result.output
    found: dict[str, int] = json.loads(result.stdout)
    return found


def local(root: Path, blob: Blob) -> int:
    return sum((root / "windows" / w.id[:2] / w.id).is_file() for w in blob.windows)


@pytest.fixture
def root(open_store: OpenStore) -> Path:
    """A store with OLD, attached last two days ago, and NEW, attached just now; nothing is open."""
    store = open_store()
    for blob in (OLD, NEW):
        attachment = store.attach([blob.meta], ScriptedSource(blob))
        assert attachment.wait_complete(20)
        attachment.close()
    store.close()
    (oldest, _) = sorted((store.root / NAME).iterdir(), key=lambda path: path.stat().st_mtime_ns)
    long_ago = oldest.stat().st_mtime - 2 * 86_400
    os.utime(oldest, (long_ago, long_ago))
    return store.root


def test_without_options_only_leftovers_go(root: Path) -> None:
    window = OLD.windows[0]
    os.truncate(root / "windows" / window.id[:2] / window.id, 5000)
    (root / "windows" / "ab").mkdir(exist_ok=True)
    (root / "windows" / "ab" / ("ab" * 32)).touch()
    (root / "windows" / "ab" / "notes.txt").touch()
    found = gc(root)
    assert (found["windows"], found["freed_bytes"], found["empty"], found["foreign"]) == (1, 5000, 1, 1)
    assert local(root, OLD) == len(OLD.windows) - 1 and local(root, NEW) == len(NEW.windows)
    assert gc(root)["windows"] == 0


def test_what_was_long_unused_goes(root: Path) -> None:
    found = gc(root, "--unused", "1")
    assert (found["windows"], found["freed_bytes"], found["images"]) == (len(OLD.windows), len(OLD.plain), 1)
    assert local(root, OLD) == 0 and local(root, NEW) == len(NEW.windows)
    assert found["bytes_left"] == len(NEW.plain)


def test_a_size_is_reached_from_the_least_recently_attached(root: Path) -> None:
    found = gc(root, "--size", str(len(NEW.plain)))
    assert local(root, OLD) == 0 and local(root, NEW) == len(NEW.windows)
    assert found["freed_bytes"] == len(OLD.plain)
    found = gc(root, "--size", str(len(NEW.plain) - 1))
    assert found["windows"] == 1 and local(root, NEW) == len(NEW.windows) - 1


def test_what_is_attached_or_open_stays(root: Path, open_store: OpenStore) -> None:
    attachment = open_store().attach([OLD.meta], ScriptedSource(OLD))
    window = NEW.windows[0]
    with (root / "windows" / window.id[:2] / window.id).open("rb"):
        found = gc(root, "--all")
        assert found["held"] == len(OLD.windows) + 1
    assert local(root, OLD) == len(OLD.windows) and local(root, NEW) == 1
    attachment.close()
    assert gc(root, "--all")["windows_left"] == 0


def test_a_mount_whose_windows_went_fetches_them_again(root: Path, open_store: OpenStore) -> None:
    source = ScriptedSource(OLD)
    attachment = open_store().attach([OLD.meta], source, background=False)
    gc(root, "--size", "1")
    assert local(root, OLD) == 0
    assert attachment.read(0, 0, len(OLD.plain)) == OLD.plain
    assert source.sent == OLD.unit_bytes


def test_what_went_is_not_called_local_and_a_question_fetches_nothing(
    root: Path, open_store: OpenStore
) -> None:
    source, other = ScriptedSource(OLD), ScriptedSource(OLD)
    attachment = open_store().attach([OLD.meta], source, hot=[(0, 0, 1)])
    assert attachment.progress_now().complete
    gc(root, "--size", "1")
    everything = len(OLD.windows)
    assert eventually(lambda: attachment.progress_now().windows_evicted == everything)
    now = attachment.progress_now()
    assert (now.windows_present, now.bytes_present, attachment.complete) == (0, 0, False)
    assert attachment.read(0, 0, 1) == OLD.plain[:1]
    assert eventually(lambda: attachment.progress().windows_present == 1)
    assert attachment.progress().windows_evicted == everything - 1
    first = OLD.windows[0]
    assert source.sent == first.compressed_end - first.compressed_start
    open_store().attach([OLD.meta], other)
    assert eventually(lambda: attachment.progress_now().complete)
    assert attachment.progress().windows_evicted == 0


def test_windows_of_another_image_that_is_used_are_kept(open_store: OpenStore) -> None:
    store = open_store()
    old = store.attach([OLD.meta, NEW.meta], ScriptedSource(OLD, NEW))
    assert old.wait_complete(20)
    old.close()
    (record,) = (store.root / NAME).iterdir()
    os.utime(record, (0, 0))
    store.attach([NEW.meta], ScriptedSource()).close()
    store.close()
    assert gc(store.root, "--unused", "30")["windows"] == len(OLD.windows)
    assert local(store.root, NEW) == len(NEW.windows)


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("1k", 1000), ("20 GB", 20 * 10**9), ("1.5GiB", 3 << 29), ("7mib", 7 << 20)]
)
def test_sizes_are_read_as_written(text: str, size: int) -> None:
    assert byte_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "many", "1X", "GB"])
def test_what_is_no_size_is_refused(root: Path, text: str) -> None:
    result = CliRunner().invoke(cache, ["gc", "--root", str(root), "--size", text])
    assert result.exit_code == 2 and "like 500MB" in result.output


@pytest.mark.parametrize("text", ["", "-1", "nan", "inf", "many"])
def test_what_is_no_number_of_days_is_refused(root: Path, text: str) -> None:
    result = CliRunner().invoke(cache, ["gc", "--root", str(root), "--unused", text])
    assert result.exit_code == 2 and "is not a number of days" in result.output


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (12_345_678, "12.3 MB"), (10**15, "1000.0 TB")],
)
def test_sizes_are_told_in_decimal_units(size: int, text: str) -> None:
    assert human_size(size) == text


@pytest.mark.parametrize(
    ("size", "text"), [(999_949, "999.9 kB"), (999_999, "1.0 MB"), (10**12 - 1, "1.0 TB")]
)
def test_a_size_just_below_a_unit_is_told_in_it(size: int, text: str) -> None:
    assert human_size(size) == text
