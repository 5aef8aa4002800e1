"""Chunks that lie in windows of another image are copied and verified, and only the rest is fetched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from chunk_store import Limits
from chunk_store.local_chunks import NAME, held_by, keep_only, parse_records
from tests.chunk_store.blobs import Blob, ScriptedSource, blob_of, chunk_of, eventually
from tests.chunk_store.conftest import OpenStore
from tests.chunk_store.filler import blob_for

SIZE = 200_000  # a unit of one such chunk has 100 KB compressed: more than is read over
FILES = [chunk_of(("file", number), SIZE) for number in range(16)]
FIRST = blob_of([FILES[at : at + 4] for at in range(0, 16, 4)])


def digests(blob: Blob, first: int, count: int) -> list[bytes]:
    return [blob.meta.chunk(number).digest for number in range(first, first + count)]


def unique_bytes(known: list[Blob], new: list[Blob]) -> int:
    """Compressed bytes of the units of *new* with a chunk that no blob of *known* has, each unit once."""
    there = {digest for blob in known for digest in digests(blob, 0, blob.meta.chunk_count)}
    costs: dict[tuple[bytes, ...], int] = {}
    for blob in new:
        for number in range(blob.meta.unit_count):
            unit = blob.meta.unit(number)
            members = digests(blob, unit.first_chunk, unit.chunk_count)
            if not there.issuperset(members):
                costs[tuple(members)] = unit.compressed_size
    return sum(costs.values())


def other_layout(seed: int) -> list[Blob]:
    """Two blobs ("layers") with the files of FIRST in another order and company, and some of their own."""
    random = Random(seed)
    chunks = FILES + [chunk_of(("new", seed, number), SIZE) for number in range(4)]
    random.shuffle(chunks)
    units = []
    while chunks:
        size = random.randint(1, 3)
        units.append(chunks[:size])
        chunks = chunks[size:]
    cut = random.randint(1, len(units) - 1)
    return [blob_of(units[:cut]), blob_of(units[cut:])]


@pytest.mark.parametrize("seed", range(6))
def test_common_files_in_other_layers_and_order_are_not_fetched(open_store: OpenStore, seed: int) -> None:
    store = open_store()
    assert store.attach([FIRST.meta], ScriptedSource(FIRST)).wait_complete(20)
    blobs = other_layout(seed)
    source = ScriptedSource(*blobs)
    attachment = store.attach([blob.meta for blob in blobs], source)
    assert attachment.wait_complete(20)
    for number, blob in enumerate(blobs):
        assert attachment.read(number, 0, len(blob.plain)) == blob.plain
    assert source.sent == unique_bytes([FIRST], blobs)
    progress = attachment.progress()
    counted = sum(c.compressed_bytes for c in (progress.demand, progress.hot, progress.background))
    assert counted == source.sent
    assert 0 < progress.copied_bytes < len(FILES) * SIZE


def test_an_image_of_known_files_alone_needs_no_remote_also_for_readers(open_store: OpenStore) -> None:
    store = open_store()
    assert store.attach([FIRST.meta], ScriptedSource(FIRST)).wait_complete(20)
    blob = blob_of([[FILES[number]] for number in (9, 3, 14, 0, 7)])
    attachment = store.attach([blob.meta], ScriptedSource(), background=False)
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain
    assert eventually(lambda: attachment.progress().copied_bytes == 5 * SIZE)


def test_what_another_process_fetched_is_copied(tmp_path: Path, open_store: OpenStore) -> None:
    root = tmp_path / "store"
    ran = subprocess.run([sys.executable, "-m", "tests.chunk_store.filler", root, "theirs"], check=False)
    assert ran.returncode == 0
    theirs = blob_for("theirs")
    chunks = [theirs.meta.chunk(number) for number in reversed(range(theirs.meta.chunk_count))]
    blob = blob_of([[theirs.plain[chunk.offset : chunk.offset + chunk.size]] for chunk in chunks])
    attachment = open_store(root).attach([blob.meta], ScriptedSource(), background=True)
    assert attachment.wait_complete(20)
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain


def test_two_images_that_fill_at_once_share_what_was_written_before(open_store: OpenStore) -> None:
    store = open_store()
    source = ScriptedSource(FIRST)
    first = store.attach([FIRST.meta], source, background=False)
    blob = blob_of([[FILES[1], FILES[0]], [FILES[15]]])
    second = store.attach([blob.meta], ScriptedSource(blob), background=False)
    assert first.read(0, 0, 1) == FIRST.plain[:1]
    assert eventually(lambda: first.progress().windows_present >= 1)
    assert second.read(0, 0, 10) == blob.plain[:10]
    assert eventually(lambda: second.progress().copied_bytes >= 2 * SIZE)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "replaced"])
def test_a_source_that_is_not_what_it_was_costs_a_fetch_and_no_wrong_byte(
    open_store: OpenStore, damage: str
) -> None:
    store = open_store()
    first = store.attach([FIRST.meta], ScriptedSource(FIRST))
    assert first.wait_complete(20)
    first.close()
    for path in store.root.glob("windows/*/*"):
        if damage == "flipped":
            content = bytearray(path.read_bytes())
            content[::50_000] = bytes(byte ^ 1 for byte in content[::50_000])
            path.write_bytes(content)
        elif damage == "cut":
            path.write_bytes(path.read_bytes()[:100])
        else:
            path.unlink()
            if damage == "replaced":
                path.mkdir()
    blob = blob_of([[FILES[9], FILES[3]], [FILES[14]]])
    source = ScriptedSource(blob)
    attachment = store.attach([blob.meta], source)
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain
    assert attachment.wait_complete(20)
    assert source.sent == blob.unit_bytes
    assert attachment.progress().copied_bytes == 0


def test_small_local_pieces_are_read_over_rather_than_asked_around(open_store: OpenStore) -> None:
    small = [chunk_of(("small", number), 40_000) for number in range(8)]
    store = open_store(limits=Limits(bulk_connections=1))
    known = blob_of([small])
    assert store.attach([known.meta], ScriptedSource(known)).wait_complete(20)
    units = [[small[0]], [FILES[0]], [small[1]], [FILES[1]], [small[2]]]
    blob = blob_of(units)
    source = ScriptedSource(blob)
    attachment = store.attach([blob.meta], source, background=False)
    assert attachment.read(0, 0, len(blob.plain)) == blob.plain
    first, last = blob.meta.unit(1), blob.meta.unit(3)
    # The windows at its ends begin and end with local units; these are not asked for.
    assert source.sent == last.compressed_offset + last.compressed_size - first.compressed_offset


def test_records_survive_torn_ones_and_rubbish() -> None:
    held = [held_by(FIRST.meta, window) for window in FIRST.windows]
    packed = [one.packed() for one in held]
    assert [found for found, _ in parse_records(b"".join(packed))] == held
    assert [found for found, _ in parse_records(b"rubbish" + packed[0] + packed[1][:-1])] == held[:1]
    assert list(parse_records(packed[0][:20])) == []


def test_records_of_windows_that_are_gone_are_dropped(open_store: OpenStore) -> None:
    store = open_store()
    assert store.attach([FIRST.meta], ScriptedSource(FIRST)).wait_complete(20)
    kept = FIRST.windows[0]
    keep_only(store.root, {kept.id})
    records = list(parse_records((store.root / NAME).read_bytes()))
    assert [found for found, _ in records] == [held_by(FIRST.meta, kept)]
