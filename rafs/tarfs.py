"""A "tarfs" image, whose blobs are plain tars, as an image like any other: chunks are made up for it.

Such an image addresses the bytes of its files in a tar in blocks of 512 bytes, and has neither chunk info nor
digests; all that is known of a tar is the SHA-256 it is named by. So it is read once, completely, before its
first byte is given: not a way to start early, but no byte is given that was not verified.

What files refer to becomes chunks, each at a multiple of 4096 in an address space of its own as everywhere
else, so that windows can be cut between them and mapped by the kernel.
"""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from rafs.counted import counted

from .blob_meta import BlobMeta
from .blob_record import BlobRecord
from .bootstrap import Bootstrap
from .chunk_info import ChunkInfo, encode_v1
from .codes import BLOCK, DEVICE_SLOTS_OFFSET, MAX_CHUNKS, TARFS_BLOCK, BlobFeature, Compressor, Digester
from .digests import digest_of
from .entry_words import ENTRY_WORD, join_entry
from .errors import FormatInvalid, FormatUnsupported
from .inode import Inode
from .records import BLOB_ENTRY, CHUNK_INFO_V1, DEVICE_SLOT


class TarPiece(NamedTuple):
    """Bytes of one file in a tar, at most a chunk of them."""

    start: int
    size: int


def tar_pieces(bootstrap: Bootstrap) -> list[list[TarPiece]]:
    """What files of a tarfs image refer to, for each blob, in the order of the tar.

    Raises:
        FormatInvalid: a part of the tree is broken, or files overlap in a tar or are too many.
    """
    longest: list[dict[int, int]] = [{} for _ in bootstrap.blobs]
    for inode in _files(bootstrap):
        for extent in bootstrap.extents(inode):
            known = longest[extent.blob_index]
            known[extent.blob_offset] = max(extent.size, known.get(extent.blob_offset, 0))
    found = [[TarPiece(*piece) for piece in sorted(known.items())] for known in longest]
    for record, pieces in zip(bootstrap.blobs, found, strict=True):
        if len(pieces) > MAX_CHUNKS:
            raise FormatInvalid(f"blob {record.id}: {len(pieces)} file pieces, expected {MAX_CHUNKS} at most")
        end = 0
        for piece in pieces:
            # In a tar they cannot, and the address space could be made far larger than the tar.
            if piece.start < end:
                raise FormatInvalid(f"blob {record.id}: file bytes at {piece.start} overlap those before")
            end = piece.start + piece.size
    return found


def tar_blob(record: BlobRecord, content: Iterable[bytes], pieces: Sequence[TarPiece]) -> BlobMeta:
    """The tar whose bytes are *content*: *pieces* of it as raw chunks, in their order.

    Raises:
        FormatInvalid: it is not the tar that *record* names, or has not all *pieces*.
        FormatUnsupported: *record* has a name instead of the tar's digest.
        and what iterating *content* raises.
    """
    if not record.is_named_by_digest:
        raise FormatUnsupported(
            "tarfs without a digest", f"only the id of blob {record.id} could say what its tar must hold"
        )
    # A blob without a chunk is none: of a tar without file bytes its first header is one.
    pieces = pieces or [TarPiece(0, TARFS_BLOCK)]
    whole, digest = hashlib.sha256(), digest_of(Digester.BLAKE3)
    digests: list[bytes] = []
    pending = bytearray()
    size = 0
    for part in content:
        whole.update(part)
        end = size + len(part)
        while len(digests) < len(pieces) and pieces[len(digests)].start < end:
            piece = pieces[len(digests)]
            pending += part[max(piece.start - size, 0) : piece.start + piece.size - size]
            if len(pending) < piece.size:
                break
            digests.append(digest(pending))
            pending.clear()
        size = end
    if whole.hexdigest() != record.id:
        raise FormatInvalid(
            f"blob {record.id}: the tar has {counted(size, 'byte')} with sha256 {whole.hexdigest()}"
        )
    if len(digests) < len(pieces):
        raise FormatInvalid(f"blob {record.id}: file bytes lie beyond the {size} bytes of the tar")
    entries: list[ChunkInfo] = []
    offset = 0
    for piece in pieces:
        entries.append(ChunkInfo(offset, piece.size, piece.start, piece.size))
        offset += piece.size + -piece.size % BLOCK
    array = b"".join(CHUNK_INFO_V1.pack(encode_v1(entry)) for entry in entries)
    plain = replace(
        record,
        chunk_count=len(entries),
        compressor=Compressor.NONE,
        digester=Digester.BLAKE3,
        features=BlobFeature.ALIGNED | BlobFeature.CAP_TAR_TOC,
        compressed_size=size,
        uncompressed_size=offset,
        ci_compressor=Compressor.NONE,
        ci_offset=size,
        ci_compressed_size=len(array),
        ci_uncompressed_size=len(array),
    )
    return BlobMeta(plain, array, b"".join(digests))


def with_chunks(bootstrap: Bootstrap, metas: Sequence[BlobMeta]) -> Bootstrap:
    """The tarfs image *bootstrap* with files that refer to the chunks *metas*, which `tar_blob` has made of
    its `tar_pieces`. All else stays, inode numbers and blocks of 512 bytes among it.

    Raises:
        FormatInvalid: a part of the tree is broken.
    """
    raw = bytearray(bootstrap.raw)
    # Raw chunks are units of their own.
    numbers = [{meta.unit(unit).compressed_offset: unit for unit in range(meta.unit_count)} for meta in metas]
    for inode in _files(bootstrap):
        at = bootstrap.chunk_entries_at(inode)
        for extent in bootstrap.extents(inode):
            number = numbers[extent.blob_index][extent.blob_offset]
            block = metas[extent.blob_index].chunk(number).offset // TARFS_BLOCK
            ENTRY_WORD.pack_into(raw, at, join_entry(extent.blob_index, number, block))
            at += ENTRY_WORD.size
    table = bootstrap.header.extended.blob_table_offset
    for number, (meta, slot) in enumerate(zip(metas, bootstrap.header.slots, strict=True)):
        _put(raw, table + number * BLOB_ENTRY.size, BLOB_ENTRY.pack(meta.record.entry()))
        blocks = meta.uncompressed_size // TARFS_BLOCK
        at = DEVICE_SLOTS_OFFSET + number * DEVICE_SLOT.size
        _put(raw, at, DEVICE_SLOT.pack(slot._replace(blocks=blocks)))
    return Bootstrap(bytes(raw))


def _files(bootstrap: Bootstrap) -> Iterator[Inode]:
    """Every regular file with bytes, once."""
    seen: set[int] = set()
    for _, inode in bootstrap.walk():
        if inode.size and stat.S_ISREG(inode.mode) and inode.nid not in seen:
            seen.add(inode.nid)
            yield inode


def _put(raw: bytearray, at: int, row: bytes) -> None:
    raw[at : at + len(row)] = row
