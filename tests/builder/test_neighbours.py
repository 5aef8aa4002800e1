"""No file of any layer goes on with its right neighbour of the same unit, whichever layer stored the two."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from builder.hot.hot_blob import HotBlob
from builder.layers.tar_index import TarEntry
from builder.neighbours import NOWHERE, moved_chunks
from tests.builder.layouts import Published, convert_layout
from tests.builder.test_hot_blob import converted
from tests.builder.test_reuse import add_image, convert_beside, with_dictionary
from tests.builder.test_unit_plan import CHUNK, OPTIONS, chunks_of, rows_in_a_unit
from tests.support.trees import file, layer_tar, tree


def layer(**files: str) -> bytes:
    """A tar of files of chunks."""
    return layer_tar(tree(*(file(name.encode(), chunks_of(text)) for name, text in files.items())).children)


BASE = layer(first="abcdefgh")  # one unit, in which c lies behind a
NEW_ORDER = [BASE, layer(second="acb"), layer(third="zac", fourth="ac")]


def test_a_chunk_that_a_higher_layer_has_in_a_new_order_is_stored_again_once(tmp_path: Path) -> None:
    image = converted(tmp_path, NEW_ORDER, OPTIONS, "out")
    assert list(rows_in_a_unit(image)) == []
    assert [meta.chunk_count for meta in image.metas] == [8, 1, 1], "of the third layer, only z is new"
    shown = image.shown()
    assert shown[b"/second"].content == chunks_of("acb")
    assert shown[b"/third"].content == chunks_of("zac")


def test_the_order_of_a_layers_own_file_stores_nothing_again(tmp_path: Path) -> None:
    image = converted(tmp_path, [BASE, layer(same="abcdefgh", part="bcd", back="hgfedcba")], OPTIONS, "out")
    assert [meta.chunk_count for meta in image.metas] == [8]


def test_what_is_stored_again_lies_behind_no_chunk_it_goes_on_from_either(tmp_path: Path) -> None:
    image = converted(tmp_path, [BASE, layer(first="xacy", second="ceg", third="cy")], OPTIONS, "out")
    assert list(rows_in_a_unit(image)) == []


@pytest.mark.parametrize("jobs", [1, 4])
def test_layers_taken_from_an_earlier_image_give_the_same_digest(tmp_path: Path, jobs: int) -> None:
    options = replace(OPTIONS, jobs=jobs, prefetch=(b"/second", b"/fourth"), hot_blob=HotBlob.NAMED)
    for known in (1, 2):
        out = tmp_path / f"{known}"
        add_image(out / "first", NEW_ORDER[:known])
        convert_beside(out / "first", out / "out", "v1", options)
        add_image(out / "second", NEW_ORDER, without=tuple(NEW_ORDER[:known]))
        report = convert_beside(out / "second", out / "out", "v2", options)
        fresh = converted(out, NEW_ORDER, replace(options, jobs=0), "fresh")
        assert report.digest == fresh.digest
        assert list(rows_in_a_unit(fresh)) == []


def test_the_bytes_come_from_the_dictionary_where_no_layer_has_them(tmp_path: Path) -> None:
    add_image(tmp_path / "first", [layer(first="abcdefgh")])
    convert_layout(tmp_path / "first", tmp_path / "dict", OPTIONS)
    add_image(tmp_path / "second", [layer(other="aceg")])
    with_dictionary(tmp_path / "second", tmp_path / "out", tmp_path / "dict", options=OPTIONS)
    image = Published(tmp_path / "out")
    assert image.findings() == []
    assert list(rows_in_a_unit(image)) == []
    assert image.shown()[b"/other"].content == chunks_of("aceg")
    assert sorted(meta.chunk_count for meta in image.metas) == [2, 8], "every second chunk is enough"


@pytest.mark.parametrize("seed", range(40))
def test_random_layers_have_no_such_file(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    letters = "abcdefghijklmnop"[: chance.randrange(4, 17)]
    layers, contents = [], {}
    for number in range(4):
        texts = {
            f"{number}-{name}" if chance.random() < 0.7 else f"{name}": "".join(
                chance.choice(letters) for _ in range(chance.randrange(1, 12))
            )
            for name in range(chance.randrange(1, 5))
        }
        contents.update(texts)
        layers.append(layer(**texts))
    wishes = tuple(f"/{name}".encode() for name in chance.sample(sorted(contents), 2))
    options = replace(
        OPTIONS,
        batch_size=CHUNK * chance.choice([2, 4, 16, 64]),
        hot_blob=chance.choice(list(HotBlob)),
        prefetch=chance.choice([(), wishes]),
    )
    image = converted(tmp_path, layers, options, "out")
    assert list(rows_in_a_unit(image)) == []
    shown = image.shown()
    assert {path: shown[f"/{path}".encode()].content for path in contents} == {
        path: chunks_of(text) for path, text in contents.items()
    }
    assert max(Counter(blob.id for blob in image.bootstrap.blobs).values()) == 1
    add_image(tmp_path / "first", layers[: chance.randrange(1, 4)])
    convert_beside(tmp_path / "first", tmp_path / "beside", "v1", options)
    add_image(tmp_path / "second", layers)
    report = convert_beside(tmp_path / "second", tmp_path / "beside", "v2", options)
    assert report.digest == image.digest


def test_a_chunk_moves_on_to_a_place_where_it_is_nobodys_neighbour() -> None:
    known = {b"a": 10, b"b": 11, b"c": 20}
    files = [TarEntry(b"", None, digests=digests) for digests in ([b"c", b"b"], [b"a", b"b"])]
    assert moved_chunks(files[:1], known, {b"b": [21]}, lambda *_: True) == {}
    assert moved_chunks(files[1:], known, {b"b": [21]}, lambda *_: True) == {b"b": 21}
    assert moved_chunks(files, known, {b"b": [21]}, lambda *_: True) == {b"b": NOWHERE}
    assert moved_chunks(files, known, {b"b": [21, 40]}, lambda *_: True) == {b"b": 40}
    assert moved_chunks(files, known, {}, lambda *_: False) == {}
