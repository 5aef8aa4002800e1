"""Blobs that are not laid out one unit behind the other, through the store: windows work as for any blob."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from blake3 import blake3

from chunk_store import ChunkStore
from fuse_fs.paths import TreeByPath
from fuse_fs.tree import ImageTree
from launch.errors import ImageInvalid
from launch.images.chunk_tables import fetch_digests, fetch_form
from launch.images.image_check import ImageCheck
from launch.images.lazy_image import LazyImage, open_image
from launch.images.remote import FileBlobs
from rafs.blob_meta import BlobMeta, parse_blob_meta
from rafs.bootstrap import Bootstrap
from rafs.bootstrap_writer import write_bootstrap
from rafs.check import check_bootstrap, check_content
from rafs.chunk_info import decode_v2, encode_v2
from rafs.chunk_table import completed_digests
from rafs.codes import BlobFeature, Digester
from rafs.crc32c import crc32c
from rafs.errors import FormatInvalid, FormatUnsupported
from rafs.records import CHUNK_INFO_HEADER, CHUNK_INFO_V2, CHUNK_ROW
from rafs.tree import split_ref
from rafs.units import decode_unit
from registry_client.options import RegistryOptions
from registry_client.reference import parse_reference
from tests.launch.published import publish
from tests.rafs.test_toc import tar_header
from tests.support.blob_metas import plain_blob
from tests.support.bootstrap_edits import Editor, edited
from tests.support.images import image_of
from tests.support.referring_blobs import encrypted_blob, gzip_members, zran_blob
from tests.support.trees import file, tree

CONTENT = [random.Random(i).randbytes(size) for i, size in enumerate((200_000, 1, 90_000, 4096, 300_000))]
# As in a tar: between the files are things that belong to no chunk.
TAR = b"".join(b"header".ljust(512) + part for part in CONTENT)
PLACES = [(sum(512 + len(part) for part in CONTENT[:i]) + 512, len(part)) for i, part in enumerate(CONTENT)]
PACKED = gzip_members([TAR[:250_000], TAR[250_000:]])


class Remote:
    """One object; counts what is asked of it."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.asked: list[tuple[int, int]] = []

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        self.asked.append((offset, size))
        part = self.raw[offset : offset + size]
        assert len(part) == size
        return iter([part[at : at + 5000] for at in range(0, size, 5000)])

    def distrust(self, blob_id: str, offset: int, size: int) -> None:
        """There is no other place."""


def _with_gaps() -> tuple[BlobMeta, bytes]:
    blob = plain_blob(CONTENT, version=2)
    entries = [decode_v2(entry) for entry in CHUNK_INFO_V2.unpack_all(blob.array)]
    moved = [entry._replace(offset=entry.offset + 8192 * number) for number, entry in enumerate(entries)]
    array = b"".join(CHUNK_INFO_V2.pack(encode_v2(entry)) for entry in moved)
    record = replace(blob.record, uncompressed_size=blob.record.uncompressed_size + 8192 * 4)
    return replace(blob, array=array, record=record).meta, b"".join(blob.stored)


def _with_hole() -> tuple[BlobMeta, bytes]:
    blob = plain_blob(CONTENT, version=2)
    return BlobMeta(blob.record, blob.array, blob.digests, b"\0\0\1\0\0"), b"".join(blob.stored)


def _encrypted() -> tuple[BlobMeta, bytes]:
    blob = encrypted_blob(plain_blob(CONTENT, version=2))
    return blob.meta, b"".join(blob.stored)


BLOBS = {
    "stretches of a tar.gz": (zran_blob(PACKED, PLACES, 60_000).meta, PACKED),
    "gaps": _with_gaps(),
    "a hole": _with_hole(),
    "encrypted": _encrypted(),
}


@pytest.mark.parametrize(("meta", "raw"), BLOBS.values(), ids=BLOBS)
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1)])
@pytest.mark.parametrize("background", [False, True])
def test_chunks_are_read_in_any_order_and_again_from_the_disk(
    meta: BlobMeta, raw: bytes, order: tuple[int, ...], background: bool, tmp_path: Path
) -> None:
    for attempt in range(2):
        remote = Remote(raw)
        with ChunkStore(tmp_path) as store:
            attachment = store.attach([meta], remote, background=background)
            for index in order:
                chunk = meta.chunk(index)
                wanted = bytes(chunk.size) if meta.holes and meta.holes[index] else CONTENT[index]
                assert attachment.read(0, chunk.offset, chunk.size) == wanted
            if background:
                assert attachment.wait_complete(20)
            space = attachment.read(0, 0, meta.uncompressed_size)
            attachment.close()
        assert not (attempt and remote.asked)
        # What belongs to no chunk is zeros: a kernel mount shows it behind the end of a file.
        for index in range(meta.chunk_count):
            end = meta.chunk(index).offset + meta.chunk(index).size
            after = meta.chunk(index + 1).offset if index + 1 < meta.chunk_count else meta.uncompressed_size
            assert not any(space[end:after])


def _merged_without_a_row(directory: Path, features: BlobFeature) -> LazyImage:
    """An image whose second file was removed after its blob was made, and with it the row of its chunk."""
    made = image_of(tree(file(b"kept", b"a" * 5000), file(b"removed", b"b" * 5000)))
    root = made.root
    del root.children[b"removed"]
    bootstrap = write_bootstrap(root, made.blobs, chunk_size=64 << 10)
    table = Bootstrap(bootstrap).header.extended.chunk_table_offset
    kept = next(iter(root.children.values())).chunks[0]
    rows = [bootstrap[table + 80 * i : table + 80 * (i + 1)] for i in range(2)]
    mine = next(row for row in rows if CHUNK_ROW.unpack(row).chunk_index == split_ref(kept)[1])

    def edit(editor: Editor) -> None:
        editor.write(table, mine * 2)
        editor.blob(0, features=lambda found: found & ~BlobFeature.INLINED_CHUNK_DIGEST | features)

    (directory / "image.boot").write_bytes(edited(bootstrap, edit))
    for name, raw in made.objects.items():
        (directory / name).write_bytes(raw)
    return open_image(
        parse_reference(f"rafs:{directory / 'image.boot'}"), RegistryOptions(), directory / "root"
    )


def test_a_digest_that_the_bootstrap_lacks_is_taken_from_the_blob(tmp_path: Path) -> None:
    (blob,) = _merged_without_a_row(tmp_path, BlobFeature.INLINED_CHUNK_DIGEST).blobs
    assert not blob.holes
    assert {blob.chunk(i).digest for i in range(2)} == {
        blake3(letter * 5000).digest() for letter in (b"a", b"b")
    }


def test_a_chunk_whose_digest_nobody_has_is_never_given(tmp_path: Path) -> None:
    image = _merged_without_a_row(tmp_path, BlobFeature(0))
    (blob,) = image.blobs
    assert sorted(blob.holes) == [0, 1]
    hole = blob.holes.index(1)
    with ChunkStore(tmp_path / "root") as store:
        attachment = store.attach(image.blobs, image.blob_source, background=False)
        assert attachment.read(0, blob.chunk(hole).offset, 5000) == bytes(5000)
        assert attachment.read(0, blob.chunk(1 - hole).offset, 5000) == b"a" * 5000
        attachment.close()


def test_digests_that_contradict_the_bootstrap_are_refused(tmp_path: Path) -> None:
    image = _merged_without_a_row(tmp_path, BlobFeature.INLINED_CHUNK_DIGEST)
    (blob,) = image.blobs
    known, unknown = image.bootstrap.known_digests(0)
    assert completed_digests(blob.record, known, unknown, blob.digests) == blob.digests
    swapped = blob.digests[32:] + blob.digests[:32]
    for section, message in ((swapped, "another digest"), (blob.digests[:-32], "32 bytes of digests")):
        with pytest.raises(FormatInvalid, match=message):
            completed_digests(blob.record, known, unknown, section)


def _optimized(directory: Path, features: BlobFeature) -> str:
    """A reference to an image as `nydus-image optimize` writes it.

    The row of its blob has *features*, and of the chunk info only how many bytes it would have in the other
    version, at 0; the header in the object has the truth.
    """
    made = image_of(tree(file(b"one", b"1" * 70_000), file(b"two", CONTENT[0])))
    (blob,) = made.blobs
    (space,) = made.devices.values()
    digests = b"".join(map(blob.digest, range(blob.chunk_count)))
    meta = parse_blob_meta(blob.record(0), blob.cache_form(), digests)
    places = [(chunk.offset, chunk.size) for chunk in map(meta.chunk, range(meta.chunk_count))]
    plain = plain_blob([space[offset : offset + size] for offset, size in places])
    data = b"".join(plain.stored)
    record = replace(plain.record, ci_offset=len(data) + 512)
    form = replace(plain, record=record).cache_form
    tables = plain.array + form[-4096:]
    raw = data + tar_header(b"image.blob", len(data)) + tables + tar_header(b"blob.meta", len(tables))

    def edit(editor: Editor) -> None:
        editor.blob(
            0,
            blob_id=b"optimized",
            features=features,
            ci_compressor=0,
            ci_offset=0,
            ci_compressed_size=24 * len(places),
            ci_uncompressed_size=24 * len(places),
            toc_size=0,
            compressed_size=len(data),
        )
        editor.slot(0, tag=b"optimized")

    (directory / "image.boot").write_bytes(edited(made.bootstrap, edit))
    (directory / "optimized").write_bytes(raw)
    return f"rafs:{directory / 'image.boot'}"


# Those of the image it was made of; the blob has none of it.
OTHERS = BlobFeature.HAS_TOC | BlobFeature.HAS_TAR_HEADER | BlobFeature.INLINED_CHUNK_DIGEST


def test_chunk_info_that_the_bootstrap_misplaces_is_found_at_the_end_of_the_object(tmp_path: Path) -> None:
    reference = parse_reference(_optimized(tmp_path, BlobFeature.ALIGNED | OTHERS))
    image = open_image(reference, RegistryOptions(), tmp_path / "root")
    with ChunkStore(tmp_path / "root") as store:
        attachment = store.attach(image.blobs, image.blob_source, background=False)
        shown = TreeByPath(ImageTree(image.bootstrap, attachment))
        assert shown.read(b"/one", 0, 1 << 20) == b"1" * 70_000
        assert shown.read(b"/two", 0, 1 << 20) == CONTENT[0]
        attachment.close()
    looking = ImageCheck(reference, RegistryOptions())
    looking.shallow()
    looking.deep(lambda _: None)
    assert [finding.rule for finding in looking.verdict.findings] == ["blob-ci-place"]
    # What the kernel is given must have no finding at all.
    assert check_bootstrap(image.stored.raw) == []
    assert looking.verdict.chunks_verified == sum(blob.chunk_count for blob in image.blobs)


def test_a_blob_whose_row_misplaces_its_chunk_info_has_digests_like_the_other_blobs() -> None:
    made = image_of(tree(file(b"one", b"1"), file(b"two", b"2", blob=1)))

    def edit(editor: Editor) -> None:
        editor.blob(0, digester=Digester.SHA256)
        editor.blob(1, ci_offset=0)

    found = Bootstrap(edited(made.bootstrap, edit)).blobs
    assert [blob.digester for blob in found] == [Digester.SHA256, Digester.SHA256]


def test_chunks_that_were_taken_out_of_their_units_are_refused_by_name(tmp_path: Path) -> None:
    features = BlobFeature.ALIGNED | BlobFeature.CHUNK_INFO_V2 | BlobFeature.BATCH
    reference = parse_reference(_optimized(tmp_path, features))
    with pytest.raises(FormatUnsupported, match="optimized image of batch units"):
        open_image(reference, RegistryOptions(), tmp_path / "root")


def test_without_a_true_place_of_its_chunk_info_a_blob_is_refused(tmp_path: Path) -> None:
    reference = parse_reference(_optimized(tmp_path, BlobFeature.ALIGNED))
    for size in (0, 4607, 4608, 9000):
        (tmp_path / "optimized").write_bytes(bytes(size))
        with pytest.raises((FormatInvalid, ImageInvalid), match="chunk info"):
            open_image(reference, RegistryOptions(), tmp_path / "root")


@pytest.mark.parametrize("size", [0, 1, 40_000])
def test_chunk_info_of_another_size_than_its_chunks_need_is_refused(tmp_path: Path, size: int) -> None:
    reference = parse_reference(_optimized(tmp_path, BlobFeature.ALIGNED))
    raw = (tmp_path / "optimized").read_bytes()
    at = len(raw) - 512 - CHUNK_INFO_HEADER.size
    header = CHUNK_INFO_HEADER.unpack(raw, at)._replace(ci_compressed_size=size, ci_uncompressed_size=size)
    (tmp_path / "optimized").write_bytes(raw[:at] + CHUNK_INFO_HEADER.pack(header) + raw[-512:])
    with pytest.raises(FormatInvalid, match=f"its chunk info has {size} bytes?,"):
        open_image(reference, RegistryOptions(), tmp_path / "root")


def test_no_chunks_are_read_from_a_place_that_nobody_names() -> None:
    blob = plain_blob(CONTENT)
    unplaced = replace(blob.record, ci_offset=0, ci_uncompressed_size=0)
    with pytest.raises(FormatInvalid, match="does not say where"):
        BlobMeta(unplaced, b"", blob.digests)


def test_the_checksum_of_a_chunk_that_is_never_given_is_not_compared() -> None:
    blob = plain_blob(CONTENT, version=2, checksum=crc32c)
    meta = BlobMeta(blob.record, blob.array, blob.digests, b"\0\0\1\0\0")
    content = decode_unit(meta, meta.unit(2), blob.stored[2])
    assert not any(content) and check_content(meta, 2, content) == []
    assert check_content(meta, 3, CONTENT[3]) == [] != check_content(meta, 3, CONTENT[3][:-1] + b"?")


def test_tables_named_by_a_digest_that_leaves_chunk_digests_out_are_taken(tmp_path: Path) -> None:
    blob = plain_blob(CONTENT, version=2)
    features = blob.record.features | BlobFeature.SEPARATE | BlobFeature.HAS_TAR_HEADER
    record = replace(blob.record, features=features | BlobFeature.INLINED_CHUNK_DIGEST, ci_offset=0)
    form = replace(blob, record=record).cache_form
    before = blob.array + form[-4096:] + tar_header(b"blob.meta", len(blob.array) + 4096)
    after = tar_header(b"blob.digest", len(blob.digests))
    record = replace(record, meta_digest=hashlib.sha256(before + after).digest())
    stored = tmp_path / record.meta_object
    stored.write_bytes(before + blob.digests + after)
    assert fetch_form(record, FileBlobs(tmp_path)) == form
    assert fetch_digests(record, FileBlobs(tmp_path)) == blob.digests
    for changed in (b"?" + before[1:] + blob.digests + after, before + blob.digests + after[:-1] + b"?"):
        stored.write_bytes(changed)
        with pytest.raises(ImageInvalid, match="another sha256"):
            fetch_form(record, FileBlobs(tmp_path))


def _named(bootstrap: bytes, name: bytes, features: int = 0) -> bytes:
    """*bootstrap* with *name* as the id of its only blob, and *features* more."""

    def edit(editor: Editor) -> None:
        editor.blob(0, blob_id=name, features=lambda found: found | features)
        editor.slot(0, tag=name)

    return edited(bootstrap, edit)


def test_a_blob_with_a_name_instead_of_a_digest_is_the_file_of_that_name(tmp_path: Path) -> None:
    made = image_of(tree(file(b"file", b"content" * 9999)))
    name = "a name.blob, ä"
    (tmp_path / "image.boot").write_bytes(_named(made.bootstrap, name.encode()))
    (raw,) = made.objects.values()
    (tmp_path / name).write_bytes(raw)
    reference = parse_reference(f"rafs:{tmp_path / 'image.boot'}")
    image = open_image(reference, RegistryOptions(), tmp_path / "root")
    with ChunkStore(tmp_path / "root") as store:
        attachment = store.attach(image.blobs, image.blob_source, background=False)
        shown = TreeByPath(ImageTree(image.bootstrap, attachment))
        assert shown.read(b"/file", 0, 1 << 20) == b"content" * 9999
        attachment.close()
    looking = ImageCheck(reference, RegistryOptions())
    looking.shallow()
    looking.deep(lambda _: None)
    assert looking.verdict.sound and looking.verdict.chunks_verified


@pytest.mark.parametrize("features", [0, BlobFeature.SEPARATE])
def test_where_objects_have_digests_a_blob_with_a_name_is_none(features: int, tmp_path: Path) -> None:
    made = image_of(tree(file(b"file", b"content")))
    named = replace(made, bootstrap=_named(made.bootstrap, b"name", features))
    published = publish(named, f"oci:{tmp_path / 'layout'}:v1", tmp_path, with_metas=False)
    with pytest.raises(ImageInvalid, match="needs blob name, which is not among the manifest's layers"):
        open_image(parse_reference(published.reference), RegistryOptions(), tmp_path / "root")
