"""The chunks of one blob and the compressed units they lie in.

Built once per blob and mount; afterwards every number in it is consistent: chunks ascend in the uncompressed
address space (from 0 and dense, but for rare gaps that Nydus' tools leave), units ascend in the object, and
the members of a unit are neighbours that fill it.
Decoding units is `units`'.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import compress
from typing import TYPE_CHECKING, Final, NamedTuple

from rafs.counted import counted

from .blob_record import BlobRecord
from .chunk_columns import judge_units, read_v1, read_v2, read_zran
from .chunk_info import decode_v2
from .codes import BLOCK, CHUNK_META_MAGIC, DIGEST_SIZE, MAX_DICTIONARY, BlobFeature, ChunkFlag
from .decompress import decompress
from .digests import digest_of
from .errors import FormatInvalid, FormatUnsupported
from .records import BATCH_CONTEXT, CHUNK_INFO_HEADER, CHUNK_INFO_V2, ZRAN_CONTEXT, ChunkInfoHeader

if TYPE_CHECKING:
    from .inflate_index import InflatePoint

# 24 bytes for each of the 2**24 chunks a blob can have, and contexts or dictionaries.
MAX_CHUNK_INFO: Final = 512 << 20

_IN_CONTEXTS: Final = BlobFeature.BATCH | BlobFeature.ZRAN


class Unit(NamedTuple):
    """What is compressed and fetched as one. Bytes; a chunk that is no batch member is a unit of its own.

    Of a reference to a tar.gz, a unit is a stretch of it: it makes more bytes than its chunks have, and its
    stored bytes may reach into the next one's.
    """

    compressed_offset: int  # in the blob object
    compressed_size: int
    uncompressed_size: int  # what decompression makes: but for stretches of a tar.gz, the sum of its chunks
    raw: bool  # stored uncompressed
    first_chunk: int
    chunk_count: int


class Chunk(NamedTuple):
    """One chunk. Bytes."""

    index: int  # type: ignore[assignment]  # hides a method of tuples nobody needs here
    digest: bytes  # of the uncompressed bytes, by the blob's digester
    offset: int  # in the uncompressed address space, multiple of 4096
    size: int
    unit_offset: int  # in the decompressed unit


class BlobMeta:
    """All chunks and units of one blob. Immutable; safe from any thread."""

    def __init__(self, record: BlobRecord, array: bytes, digests: bytes, holes: bytes = b"") -> None:
        """Read *array*, the uncompressed chunk info with its contexts; *digests*: 32 bytes per chunk.

        *holes* has a byte for each chunk, not 0 where nobody knows the digest; no file of the image may use
        these. As their bytes cannot be verified they are never given: such a chunk is zeros, with the digest
        of zeros. Empty: there are none.

        Raises:
            FormatUnsupported: a feature without which the chunks cannot be read.
            FormatInvalid: record, array and digests do not fit together, or a rule is broken.
        """
        feature = record.unread_feature()
        where = f"blob {record.id}"
        if feature is not None:
            raise FormatUnsupported(feature, f"the chunks of {where} cannot be read")
        if record.is_unplaced:
            raise FormatInvalid(f"{where}: its blob table does not say where its chunk info is")
        if len(array) != record.ci_uncompressed_size:
            raise FormatInvalid(
                f"{where}: chunk info has {counted(len(array), 'byte')}, its blob says"
                f" {record.ci_uncompressed_size}"
            )
        if len(holes) not in (0, record.chunk_count):
            raise FormatInvalid(
                f"{where}: {len(holes)} marks of unknown digests, {record.chunk_count} chunks"
            )
        if not record.chunk_count or len(digests) != DIGEST_SIZE * record.chunk_count:
            raise FormatInvalid(
                f"{where}: {counted(len(digests), 'byte')} of digests for {record.chunk_count} chunks"
            )
        self.record = record
        self.id = record.id
        self.compressor = record.compressor
        self.digester = record.digester
        self.chunk_count = record.chunk_count
        self.cipher = record.unit_cipher()
        if record.features & BlobFeature.ZRAN:
            columns = read_zran(record, array)
        elif record.features & BlobFeature.CHUNK_INFO_V2:
            columns = read_v2(record, array)
        else:
            columns = read_v1(record, array)
        judge_units(record, columns)
        self.unit_count = len(columns.unit_first)
        self.sizes = columns.size
        self.blocks = columns.block  # where chunks start in the address space, in blocks of 4096 bytes
        end = columns.block[-1] * BLOCK + columns.size[-1]
        self.uncompressed_size = end + -end % BLOCK
        self._unit_offsets = columns.unit_offset
        columns.unit_first.append(record.chunk_count)
        self._first = columns.unit_first
        self._compressed_offsets = columns.unit_compressed_offset
        self._compressed_sizes = columns.unit_compressed_size
        self._unit_sizes = columns.unit_size
        self._raw = bytes(columns.unit_raw)
        self._points = columns.unit_point
        self._index = columns.index
        # Only such entries have checksums; nobody but `check` asks for them.
        plain = record.features & BlobFeature.CHUNK_INFO_V2 and not record.features & _IN_CONTEXTS
        self._entries = array if plain else b""
        self.holes = holes
        self.digests = self._with_zeros(digests) if self.holes else digests

    def unit(self, index: int) -> Unit:
        """Unit *index*, 0 to unit_count - 1; units are in the order of their chunks and of their bytes.

        Raises:
            FormatInvalid: there is no such unit.
        """
        if not 0 <= index < self.unit_count:
            raise FormatInvalid(f"blob {self.id}: there is no unit {index} among {self.unit_count}")
        first = self._first[index]
        return Unit(
            self._compressed_offsets[index],
            self._compressed_sizes[index],
            self._unit_sizes[index],
            bool(self._raw[index]),
            first,
            self._first[index + 1] - first,
        )

    def chunk(self, index: int) -> Chunk:
        """Chunk *index*, 0 to chunk_count - 1.

        Raises:
            FormatInvalid: there is no such chunk.
        """
        if not 0 <= index < self.chunk_count:
            raise FormatInvalid(f"blob {self.id}: there is no chunk {index} among {self.chunk_count}")
        return Chunk(
            index,
            self.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE],
            self.blocks[index] * BLOCK,
            self.sizes[index],
            self._unit_offsets[index],
        )

    def unit_of_chunk(self, index: int) -> int:
        """The index of the unit that chunk *index* lies in.

        Raises:
            FormatInvalid: there is no such chunk.
        """
        if not 0 <= index < self.chunk_count:
            raise FormatInvalid(f"blob {self.id}: there is no chunk {index} among {self.chunk_count}")
        return bisect_right(self._first, index) - 1

    def crc32c(self, index: int) -> int | None:
        """The CRC-32C of chunk *index*, if the chunk info has one; a digest that is right says more.

        None of a hole: it is that of the bytes nobody is given.
        """
        if not self._entries or (self.holes and self.holes[index]):
            return None
        entry = decode_v2(CHUNK_INFO_V2.unpack(self._entries, index * CHUNK_INFO_V2.size))
        return entry.crc32c if entry.flags & ChunkFlag.HAS_CRC else None

    def inflate_point(self, unit: Unit) -> InflatePoint | None:
        """Where in a tar.gz the decoding of *unit* starts; None for units that are decoded by themselves."""
        if self._index is None:
            return None
        return self._index.point(self._points[self.unit_of_chunk(unit.first_chunk)])

    def _with_zeros(self, digests: bytes) -> bytes:
        filled, hashed = bytearray(digests), digest_of(self.digester)
        known: dict[int, bytes] = {}
        for index in compress(range(self.chunk_count), self.holes):
            size = self.sizes[index]
            if size not in known:
                known[size] = hashed(bytes(size))
            filled[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE] = known[size]
        return bytes(filled)


def parse_blob_meta(record: BlobRecord, cache_form: bytes, digests: bytes, holes: bytes = b"") -> BlobMeta:
    """The chunks of a blob from *cache_form*: array, zeros up to a multiple of 4096, 4096-byte header.

    Raises:
        FormatUnsupported, FormatInvalid: as `BlobMeta`, or the header contradicts the blob table.
    """
    record = placed_record(record, cache_form)
    for _, message in header_faults(record, cache_form):
        raise FormatInvalid(f"blob {record.id}: {message}")
    return BlobMeta(record, cache_form[: record.ci_uncompressed_size], digests, holes)


def placed_record(record: BlobRecord, cache_form: bytes) -> BlobRecord:
    """*record*; if it does not say where the chunk info is, as the header at the end of *cache_form* says.

    Any bytes that end with the object's own header will do.

    Raises:
        FormatUnsupported, FormatInvalid: as `BlobRecord.placed`.
    """
    if not record.is_unplaced:
        return record
    size = CHUNK_INFO_HEADER.size
    return record.placed(CHUNK_INFO_HEADER.unpack(cache_form, len(cache_form) - size))


def read_cache_form(record: BlobRecord, stored: bytes) -> bytes:
    """The cache form from the bytes at ci_offset of the object with the tables: array and header.

    Raises:
        ChunkInvalid, FormatInvalid: as `read_chunk_info`.
    """
    array = read_chunk_info(record, stored[: record.ci_compressed_size])
    header, cipher = stored[record.ci_compressed_size :][: CHUNK_INFO_HEADER.size], record.unit_cipher()
    if cipher is not None:
        header = cipher.decrypt(header)
    return array + bytes(-len(array) % BLOCK) + header


def read_chunk_info(record: BlobRecord, stored: bytes) -> bytes:
    """The uncompressed array from the bytes at ci_offset of the object with the tables.

    Raises:
        ChunkInvalid: they are not its compressed form.
        FormatInvalid: the blob table promises an impossible size.
    """
    context = BATCH_CONTEXT.size
    if record.features & BlobFeature.ZRAN:
        context = ZRAN_CONTEXT.size + MAX_DICTIONARY
    limit = min(record.chunk_count * (CHUNK_INFO_V2.size + context), MAX_CHUNK_INFO)
    if record.ci_uncompressed_size > limit:
        raise FormatInvalid(
            f"blob {record.id}: {record.ci_uncompressed_size} bytes of chunk info, at most {limit}"
        )
    cipher = record.unit_cipher()
    if cipher is not None:
        stored = cipher.decrypt(stored)
    return decompress(record.ci_compressor, stored, record.ci_uncompressed_size)


def header_faults(record: BlobRecord, cache_form: bytes) -> list[tuple[str, str]]:
    """(rule, message) for everything that is wrong with the size and the header of *cache_form*."""
    size = record.ci_uncompressed_size
    expected = size + -size % BLOCK + CHUNK_INFO_HEADER.size
    if len(cache_form) != expected:
        return [("meta-size", f"chunk info file has {counted(len(cache_form), 'byte')}, expected {expected}")]
    header = CHUNK_INFO_HEADER.unpack(cache_form, expected - CHUNK_INFO_HEADER.size)
    found = [
        ("meta-header", f"chunk info header: {name} is {value}, expected {wanted}")
        for name, value, wanted in _header_fields(record, header)
        if value != wanted
    ]
    if any(cache_form[size : expected - CHUNK_INFO_HEADER.size]):
        found.append(("meta-padding", "chunk info is not padded with zeros"))
    return found


def _header_fields(record: BlobRecord, header: ChunkInfoHeader) -> list[tuple[str, int, int]]:
    fields = [
        ("magic", header.magic, CHUNK_META_MAGIC),
        ("second magic", header.magic2, CHUNK_META_MAGIC),
        ("entries", header.ci_entries, record.chunk_count),
        ("compressor", header.ci_compressor, record.ci_compressor),
        ("offset", header.ci_offset, record.ci_offset),
        ("compressed size", header.ci_compressed_size, record.ci_compressed_size),
        ("uncompressed size", header.ci_uncompressed_size, record.ci_uncompressed_size),
    ]
    if record.features & _IN_CONTEXTS:
        entries = CHUNK_INFO_V2.size * record.chunk_count
        contexts = record.ci_uncompressed_size - entries
        fields += [
            ("context offset", header.context_offset, entries),
            ("context bytes", header.context_size, contexts),
        ]
    if record.features & BlobFeature.BATCH:
        fields.append(("context count", header.context_count, contexts // BATCH_CONTEXT.size))
    return fields
