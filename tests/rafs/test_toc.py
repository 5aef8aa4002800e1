"""Tables of contents and inlined bootstraps: of Nydus' own files, and hostile ones."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from rafs.bootstrap import Bootstrap
from rafs.codes import SECTION_BOOTSTRAP, SECTION_CHUNK_DIGESTS, SECTION_CHUNK_INFO, BlobFeature
from rafs.errors import ChunkInvalid, FormatInvalid, RafsError
from rafs.inlined import ReadObject, inlined_bootstrap, is_bootstrap, with_blob_id
from rafs.records import TAR_HEADER, TOC_ENTRY, TarHeader, TocEntry
from rafs.toc import parse_toc, tar_entry, trusted_toc
from tests.support.bootstrap_edits import edited
from tests.support.fixtures import fixture
from tests.support.images import image_of
from tests.support.nydus_vectors import one_vector
from tests.support.trees import file, tree


def tar_header(name: bytes, size: int) -> bytes:
    """As the tools write it; nobody looks at the checksum."""
    return TAR_HEADER.pack(TarHeader(name=name, size=b"%011o\0" % size))


def with_toc(bootstrap: bytes, *, flags: int = 2, **changes: object) -> bytes:
    """An object without data, its bootstrap in the table of contents; *changes* are fields of its entry."""
    stored = zstandard.ZstdCompressor().compress(bootstrap) if flags == 2 else bootstrap
    entry = TocEntry(
        flags=flags,
        name=SECTION_BOOTSTRAP,
        digest=hashlib.sha256(bootstrap).digest(),
        compressed_offset=0,
        compressed_size=len(stored),
        size=len(bootstrap),
    )._replace(**changes)  # type: ignore[arg-type]
    table = TOC_ENTRY.pack(entry)
    return stored + tar_header(b"image.boot", len(stored)) + table + tar_header(b"rafs.blob.toc", len(table))


def reading(raw: bytes) -> ReadObject:
    return lambda offset, size: raw[offset : offset + size]


def found_in(raw: bytes) -> bytes:
    return inlined_bootstrap(len(raw), reading(raw))


def test_the_table_of_an_object_of_nydus_names_and_verifies_its_sections() -> None:
    image = one_vector("dir-zstd")
    (record,) = Bootstrap(image.bootstrap).blobs
    raw = image.blob_object(record)
    sections = trusted_toc(raw[-record.toc_size :], record.toc_digest)
    assert set(sections) == {b"image.blob", SECTION_CHUNK_INFO, b"blob.meta.header", SECTION_CHUNK_DIGESTS}
    info = sections[SECTION_CHUNK_INFO]
    assert (info.offset, info.size) == (record.ci_offset, record.ci_uncompressed_size)
    info.unpack(raw[info.offset : info.offset + info.stored_size])
    digests = sections[SECTION_CHUNK_DIGESTS]
    assert digests.offset == record.digests_offset
    assert digests.unpack(raw[digests.offset : digests.offset + digests.stored_size]) == Bootstrap(
        image.bootstrap
    ).chunk_digests(0)


def test_the_bootstrap_inside_an_object_of_2_2_is_found() -> None:
    folder = fixture("nydus/toc")
    raw = next(path for path in folder.iterdir() if len(path.name) == 64).read_bytes()
    assert found_in(raw) == (folder / "2fa78cad.image.boot.extracted").read_bytes()


@pytest.mark.parametrize("name", ["tar-inline", "tar-inline-notoc"])
def test_the_bootstrap_inside_a_layer_of_nydus_is_found_and_named(name: str) -> None:
    image = one_vector(name)
    (path,) = (image.folder / "blobs").iterdir()
    found = found_in(path.read_bytes())
    assert found == (image.folder / "layer.boot").read_bytes()
    bootstrap = Bootstrap(with_blob_id(found, path.name))
    assert [blob.id for blob in bootstrap.blobs] == [path.name]
    assert bootstrap.header.slots[0].tag == path.name.encode()
    assert Bootstrap(found).blobs[0].id == "x" * 64


def test_only_the_blob_that_holds_the_bootstrap_gets_the_name() -> None:
    image = one_vector("chunkdict")
    assert with_blob_id(image.bootstrap, "0" * 64) == image.bootstrap
    assert not any(blob.features & BlobFeature.INLINED_FS_META for blob in Bootstrap(image.bootstrap).blobs)


@pytest.mark.parametrize("flags", [1, 2])
def test_a_bootstrap_is_found_stored_and_compressed(flags: int) -> None:
    assert found_in(with_toc(b"bootstrap" * 1000, flags=flags)) == b"bootstrap" * 1000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:100], "100 bytes are neither"),
        (lambda raw: bytes(9000), "neither a bootstrap nor a blob object"),
        (lambda raw: with_toc(b"x" * 5000, size=5001), "expected 5001"),
        (lambda raw: with_toc(b"x" * 5000, size=1 << 40), "impossible"),
        (lambda raw: with_toc(b"x" * 5000, compressed_offset=1 << 60), "impossible"),
        (lambda raw: with_toc(b"x" * 5000, digest=b"\1" * 32), "image.boot has sha256"),
        (lambda raw: with_toc(b"x" * 5000, flags=8), "flags 0x8"),
        (lambda raw: with_toc(b"x" * 5000, name=b"image.blob"), "no bootstrap inside"),
        (lambda raw: raw[:-512] + tar_header(b"rafs.blob.toc", 8192), "no table of contents"),
        (lambda raw: raw[:-512] + tar_header(b"rafs.blob.toc", 100), "ends with a header"),
        (lambda raw: raw[:-512] + tar_header(b"image.boot", 1 << 32), "the object"),
    ],
)
def test_an_object_without_a_sound_bootstrap_is_refused(
    change: Callable[[bytes], bytes], message: str
) -> None:
    with pytest.raises((FormatInvalid, ChunkInvalid), match=message):
        found_in(change(with_toc(b"x" * 5000)))


def test_an_unknown_digest_of_a_section_is_not_compared() -> None:
    assert found_in(with_toc(b"x" * 5000, digest=bytes(32))) == b"x" * 5000


def test_garbage_in_reserved_fields_is_ignored() -> None:
    assert found_in(with_toc(b"x" * 5000, reserved2=b"\xff" * 48)) == b"x" * 5000


def test_a_table_that_is_not_the_one_the_bootstrap_knows_is_refused() -> None:
    table = with_toc(b"x")[-640:]
    assert parse_toc(table)
    with pytest.raises(FormatInvalid, match="the bootstrap says"):
        trusted_toc(table, bytes(32))


def test_two_sections_of_one_name_are_refused() -> None:
    entry = TOC_ENTRY.pack(TocEntry(name=b"blob.meta"))
    with pytest.raises(FormatInvalid, match="twice"):
        parse_toc(entry * 2 + tar_header(b"rafs.blob.toc", 256))


@given(st.binary(min_size=512, max_size=512))
def test_any_bytes_are_a_tar_header_or_a_typed_error(raw: bytes) -> None:
    try:
        name, size = tar_entry(raw)
        assert size >= 0 and len(name) <= 100
    except RafsError:
        pass


@given(st.lists(st.tuples(st.integers(1, 1500), st.integers(0, 255)), min_size=1, max_size=6))
def test_changed_bytes_give_a_bootstrap_or_a_typed_error(changes: list[tuple[int, int]]) -> None:
    raw = bytearray(with_toc(b"bootstrap " * 300))
    for at, value in changes:
        raw[-(at % len(raw)) - 1] = value
    with suppress(RafsError):
        found_in(bytes(raw))


def test_what_begins_as_a_bootstrap_is_told(tmp_path: Path) -> None:
    image = image_of(tree(file(b"a", b"content")))
    end = image.bootstrap[-512:]
    assert is_bootstrap(image.bootstrap[:4096], end)
    assert is_bootstrap(b"SFAR" + bytes(4092), end)
    assert not is_bootstrap(next(iter(image.objects.values()))[:4096], end)
    assert not is_bootstrap(image.bootstrap[:4096], tar_header(b"image.boot", 4096))


def test_the_object_of_a_reference_is_where_the_tables_are_and_the_blob_stays_the_layer() -> None:
    image = image_of(tree(file(b"a", b"content")))
    features = BlobFeature.INLINED_FS_META | BlobFeature.SEPARATE
    raw = edited(image.bootstrap, lambda e: e.blob(0, features=lambda found: found | features))
    (blob,) = Bootstrap(with_blob_id(raw, "ab" * 32)).blobs
    assert (blob.id, blob.meta_object) == (image.blobs[0].id, "ab" * 32)
