"""Everything that is wrong with an image's metadata, as a list; never an exception, whatever the bytes.

`check_bootstrap` judges a bootstrap by itself, `check_blob_meta` a chunk info file against its row in the
blob table, `check_chunks` both together. Chunk data is not looked at: decoding verifies it. Time and memory
are linear in the bytes given, and a check stops after `MAX_FINDINGS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from .blob_meta import BlobMeta, header_faults, placed_record
from .blob_record import BlobRecord
from .check_tree import TreeCheck
from .codes import BLOCK, DIGEST_SIZE, BlobFeature, Compressor, Digester, RafsFlag, RowFlag
from .crc32c import crc32c
from .entry_words import join_entry
from .errors import FormatUnsupported, RafsError
from .findings import Finding as Finding
from .findings import Report
from .header import Header, read_header
from .records import CHUNK_ROW

MAX_FINDINGS: Final = 1000

_COMPRESSION_OF = {
    RafsFlag.COMPRESSION_NONE: Compressor.NONE,
    RafsFlag.COMPRESSION_LZ4: Compressor.LZ4_BLOCK,
    RafsFlag.COMPRESSION_GZIP: Compressor.GZIP,
    RafsFlag.COMPRESSION_ZSTD: Compressor.ZSTD,
}
_ROW_FLAGS = int(RowFlag.COMPRESSED | RowFlag.ENCRYPTED | RowFlag.BATCH | RowFlag.HAS_CRC)


class _EnoughError(Exception):
    """Raised by `_Findings` to leave a check that has found too much."""


class _Findings(list[Finding]):
    def report(self, finding: Finding) -> None:
        self.append(finding)
        if len(self) >= MAX_FINDINGS:
            raise _EnoughError


def check_bootstrap(raw: bytes) -> list[Finding]:
    """All broken rules of a bootstrap, those of the fixed part first; empty: every reader takes the image.

    At most `MAX_FINDINGS` are returned.
    """
    found = _Findings()
    try:
        header = read_header(raw, found.report)
        if header is not None:
            _check_flags(header, found.report)
            sizes = _check_rows(raw, header, found.report)
            TreeCheck(raw, header, sizes, found.report).run()
    except FormatUnsupported as error:
        found.append(Finding("unsupported", "bootstrap", str(error), fatal=True))
    except _EnoughError:
        pass
    return found


def check_blob_meta(record: BlobRecord, cache_form: bytes, digests: bytes) -> list[Finding]:
    """All broken rules of a chunk info file; the first only, of those within the array."""
    where = f"chunk info of blob {record.id}"
    found: list[Finding] = []
    try:
        record = placed_record(record, cache_form)
        found += [Finding(rule, where, message) for rule, message in header_faults(record, cache_form)]
        if any(finding.rule == "meta-size" for finding in found):
            return found
        BlobMeta(record, cache_form[: record.ci_uncompressed_size], digests)
    except FormatUnsupported as error:
        found.append(Finding("unsupported", where, str(error)))
    except RafsError as error:
        found.append(Finding("meta-array", where, str(error)))
    return found


def check_chunks(raw: bytes, metas: Sequence[BlobMeta]) -> list[Finding]:
    """All rows of the chunk table that contradict the chunk info of their blob; *metas* in blob table order.

    Where they disagree, one reader shows other bytes than another: they go by index, or by block address.
    """
    found = _Findings()
    try:
        header = read_header(raw, found.report)
        if header is None or found:
            return found
        if not header.is_tarfs:  # whose chunks are made up from the tar
            _compare_rows(raw, header, metas, found.report)
    except FormatUnsupported as error:
        found.append(Finding("unsupported", "bootstrap", str(error), fatal=True))
    except _EnoughError:
        pass
    return found


def _check_flags(header: Header, report: Report) -> None:
    flags, where = header.extended.flags, "extended superblock"
    compressors = {kind for flag, kind in _COMPRESSION_OF.items() if flags & flag}
    digester = Digester.SHA256 if flags & RafsFlag.HASH_SHA256 else Digester.BLAKE3
    for blob in header.blobs:
        if blob.compressor not in compressors:
            report(
                Finding(
                    "flags-compressor",
                    where,
                    f"flags {flags:#x}, but blob {blob.index} is {blob.compressor!r}",
                )
            )
        if blob.digester is not digester:
            report(
                Finding(
                    "flags-digest", where, f"flags {flags:#x}, but blob {blob.index} has {blob.digester!r}"
                )
            )
        if blob.uncompressed_size % header.block_size:
            message = (
                f"address space of {blob.uncompressed_size} bytes, not a multiple of {header.block_size}"
            )
            report(Finding("blob-size", f"blob {blob.index}", message))
    inlined = all(blob.features & BlobFeature.INLINED_CHUNK_DIGEST for blob in header.blobs)
    if bool(flags & RafsFlag.INLINED_CHUNK_DIGEST) and not inlined:
        report(
            Finding(
                "flags-inlined-digest", where, "says that every blob carries its chunk digests, one does not"
            )
        )


def _check_rows(raw: bytes, header: Header, report: Report) -> dict[int, int]:
    """Judge the chunk table; give chunk sizes by the 8-byte entry with which an inode refers to the row."""
    extended, blobs = header.extended, header.blobs
    table = memoryview(raw)[extended.chunk_table_offset :][: extended.chunk_table_size]
    sizes: dict[int, int] = {}
    places: list[int] = []
    if len(table) % CHUNK_ROW.size:
        return sizes
    limits = [(blob.chunk_count, blob.chunk_size, blob.uncompressed_size) for blob in blobs]
    ends = [blob.chunks_end if blob.unread_feature() is None else 1 << 64 for blob in blobs]
    tarfs = header.is_tarfs
    block_size = header.block_size
    zero = bytes(DIGEST_SIZE)
    rows = CHUNK_ROW.struct.iter_unpack(table)
    for number, (digest, blob, flags, stored, size, start, offset, _, index, _) in enumerate(rows):
        if blob >= len(limits):
            report(Finding("row-blob", f"chunk row {number}", f"names blob {blob} of {len(limits)}"))
            continue
        count, largest, space = limits[blob]
        if (
            (index >= count and not tarfs)
            or not 0 < size <= largest
            or offset % block_size
            or offset + size > space
            or start + stored > ends[blob]
            or flags & ~_ROW_FLAGS
            or (digest == zero and not tarfs)
        ):
            report(
                Finding(
                    "row-fields",
                    f"chunk row {number}",
                    f"chunk {index} of {count} in blob {blob}, digest {digest.hex()}, flags {flags:#x}:"
                    f" {size} bytes at {offset} of {space}, stored as {stored} at {start}: impossible",
                )
            )
            continue
        block = offset // block_size
        entry = join_entry(blob, index, block)
        if sizes.setdefault(entry, size) != size:
            report(Finding("row-twice", f"chunk row {number}", f"chunk {index} of blob {blob} has two sizes"))
        places.append(blob << 88 | index << 64 | block << 32 | size)
    if not tarfs:
        _check_places(places, report)
    return sizes


def _check_places(places: list[int], report: Report) -> None:
    """Report chunks of a blob that share blocks, or whose places do not ascend with their index."""
    places.sort()
    for this, following in pairwise(places):
        if this >> 88 != following >> 88 or this == following:
            continue
        size = this & 0xFFFF_FFFF
        end = (this >> 32 & 0xFFFF_FFFF) + -(-size // BLOCK)
        index, next_index = this >> 64 & 0xFF_FFFF, following >> 64 & 0xFF_FFFF
        start = following >> 32 & 0xFFFF_FFFF
        if index == next_index or start < end:
            where = f"chunk {next_index} of blob {this >> 88}"
            report(Finding("row-place", where, f"starts at block {start}, but chunk {index} ends at {end}"))


def _compare_rows(raw: bytes, header: Header, metas: Sequence[BlobMeta], report: Report) -> None:
    extended = header.extended
    table = memoryview(raw)[extended.chunk_table_offset :][: extended.chunk_table_size]
    for digest, blob, flags, _, size, _, offset, _, index, crc in CHUNK_ROW.struct.iter_unpack(table):
        where = f"chunk {index} of blob {blob}"
        if blob >= len(metas) or index >= metas[blob].chunk_count:
            report(Finding("row-blob", where, "is in the chunk table, but not in the chunk info"))
            continue
        chunk = metas[blob].chunk(index)
        if (digest, size, offset) != (chunk.digest, chunk.size, chunk.offset):
            message = (
                f"the chunk table says {size} bytes at {offset}, digest {digest.hex()};"
                f" the chunk info says {chunk.size} at {chunk.offset}, digest {chunk.digest.hex()}"
            )
            report(Finding("row-differs", where, message))
        # Rows taken over from another bootstrap have lost theirs.
        stored = metas[blob].crc32c(index) if flags & RowFlag.HAS_CRC else None
        if stored is not None and stored != crc:
            report(
                Finding(
                    "row-crc", where, f"CRC-32C {crc:#x} in the chunk table, {stored:#x} in the chunk info"
                )
            )


def check_content(meta: BlobMeta, first_chunk: int, content: bytes) -> list[Finding]:
    """What readers that go by CRC-32C would refuse of *content*, verified chunks from *first_chunk* on."""
    found: list[Finding] = []
    start, index = 0, first_chunk
    while start < len(content):
        size, stored = meta.sizes[index], meta.crc32c(index)
        if stored is not None and (crc := crc32c(content[start : start + size])) != stored:
            message = f"has CRC-32C {crc:#x}, the chunk info says {stored:#x}"
            found.append(Finding("chunk-crc", f"chunk {index} of blob {meta.id}", message))
        start, index = start + size, index + 1
    return found
