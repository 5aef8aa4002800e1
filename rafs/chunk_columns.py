"""The chunk info array of one blob read into columns, with the rules that hold within it.

These loops run over every chunk of an image before it is mounted, hence plain integers and no records.
`blob_meta` gives the columns their meaning.
"""

from __future__ import annotations

from array import array
from operator import sub
from typing import TYPE_CHECKING, Final

from rafs.counted import counted

from .blob_record import BlobRecord
from .codes import BLOCK, CIPHER_BLOCK, CIPHER_FILLED, ChunkFlag, Cipher, Compressor
from .errors import FormatInvalid, FormatUnsupported
from .records import BATCH_CONTEXT, CHUNK_INFO_V1, CHUNK_INFO_V2

if TYPE_CHECKING:
    from .inflate_index import InflateIndex

# What one unit may cost in memory. The largest that was tried with other readers has 16 MiB.
MAX_UNIT: Final = 64 << 20
# Its chunks and what lies between them, in the address space: many tiny chunks are spread out widely.
MAX_UNIT_SPAN: Final = 512 << 20

_LOW24 = (1 << 24) - 1
_LOW32 = (1 << 32) - 1
_LOW40 = (1 << 40) - 1
# A stretch of a tar.gz reaches to the end of its last chunk, into the next stretch. As chunks do not overlap,
# all stretches together have at most twice the bytes of the file, and some slack for tiny ones.
_MAX_OVERLAP: Final = 16

_PLAIN_FLAGS = int(ChunkFlag.COMPRESSED | ChunkFlag.HAS_CRC)
_BATCH = int(ChunkFlag.BATCH)
_ZRAN_FLAGS = int(ChunkFlag.ZRAN | ChunkFlag.COMPRESSED)
_COMPRESSED = int(ChunkFlag.COMPRESSED)
_ENCRYPTED = int(ChunkFlag.ENCRYPTED)


class Columns:
    """The array by columns: 12 bytes per chunk and 21 per unit, no object for either."""

    def __init__(self) -> None:
        self.size = array("I")
        self.unit_offset = array("I")
        self.block = array("I")
        self.unit_first = array("I")
        self.unit_compressed_offset = array("Q")
        self.unit_compressed_size = array("I")
        self.unit_size = array("I")
        self.unit_raw = bytearray()
        self.unit_point = array("I")  # ZRAN only: the point of `index` where each unit starts
        self.index: InflateIndex | None = None

    def open_unit(self, compressed_offset: int, compressed_size: int, size: int, raw: bool) -> None:
        self.unit_first.append(len(self.size))
        self.unit_compressed_offset.append(compressed_offset)
        self.unit_compressed_size.append(compressed_size)
        self.unit_size.append(size)
        self.unit_raw.append(raw)


def _broken(record: BlobRecord, index: int, message: str) -> FormatInvalid:
    return FormatInvalid(f"blob {record.id}: chunk {index}: {message}")


def read_v1(record: BlobRecord, raw: bytes) -> Columns:
    """The columns of an array of 16-byte entries: every chunk is a unit.

    Raises:
        FormatInvalid: chunks overlap, or are too far apart.
    """
    columns = Columns()
    end = limit = 0
    for index, (u0, u1) in enumerate(CHUNK_INFO_V1.struct.iter_unpack(raw)):
        offset = u0 & 0xFFF_FFFF_F000
        size = (u0 >> 44 | (u0 >> 8 & 0xF) << 20) + 1
        compressed_size = (u1 >> 44 | (u1 >> 40 & 0xF) << 20) + 1
        if not end <= offset <= limit:
            raise _broken(record, index, f"starts at {offset}, expected {end}")
        columns.open_unit(u1 & _LOW40, compressed_size, size, compressed_size == size)
        columns.block.append(offset // BLOCK)
        columns.size.append(size)
        columns.unit_offset.append(0)
        end = offset + size + -size % BLOCK
        limit = end + record.chunk_size
    return columns


def read_v2(record: BlobRecord, raw: bytes) -> Columns:
    """The columns of an array of 24-byte entries and the contexts of its batch units.

    Raises:
        FormatInvalid: chunks overlap, are too far apart, or a unit's members are not neighbours that fill it.
    """
    entries = CHUNK_INFO_V2.size * record.chunk_count
    contexts = raw[entries:]
    if len(contexts) % BATCH_CONTEXT.size:
        raise FormatInvalid(
            f"blob {record.id}: {counted(len(contexts), 'byte')} of contexts, expected a multiple of 40"
        )
    context_count = len(contexts) // BATCH_CONTEXT.size
    encrypted = record.cipher is not Cipher.NONE
    # What the cipher is used on is said by the blob table; whether batch members have the flag, by nobody.
    others = ~(_PLAIN_FLAGS | _ENCRYPTED) if encrypted else ~_PLAIN_FLAGS
    all_raw = encrypted and record.compressor is Compressor.NONE
    columns = Columns()
    limit, gap = 0, record.chunk_size // BLOCK
    block, context, fill, unit_size, place = 0, -1, 0, 0, -1
    for index, (u0, u1, u2) in enumerate(CHUNK_INFO_V2.struct.iter_unpack(raw[:entries])):
        flags, size = u0 >> 56, (u0 >> 32 & _LOW24) + 1
        if not block <= u0 & _LOW32 <= limit:
            raise _broken(record, index, f"starts at block {u0 & _LOW32}, expected {block}")
        block = u0 & _LOW32
        if flags & others == _BATCH:
            offset = u2 & _LOW32
            if u2 >> 32 != context:
                if fill != unit_size:
                    raise _broken(record, index, f"the unit before it has {fill} bytes of {unit_size}")
                context, fill, place = context + 1, 0, u1
                if u2 >> 32 != context or context >= context_count:
                    raise _broken(
                        record, index, f"is in unit {u2 >> 32}, expected {context} of {context_count}"
                    )
                compressed, unit_size, _ = BATCH_CONTEXT.struct.unpack_from(
                    contexts, context * BATCH_CONTEXT.size
                )
                # Of a unit that was filled up before it was encrypted the two sizes do not tell it is raw.
                columns.open_unit(u1 & _LOW40, compressed, unit_size, compressed == unit_size or all_raw)
            elif fill == unit_size:
                raise _broken(record, index, f"does not fit into unit {context} of {unit_size} bytes")
            if offset != fill or fill + size > unit_size or u1 != place or u1 >> 40:
                raise _broken(
                    record,
                    index,
                    f"{counted(size, 'byte')} at {offset} of unit {context}, which has {fill} of {unit_size}",
                )
            fill += size
            columns.unit_offset.append(offset)
        elif flags & others or (encrypted and not flags & _ENCRYPTED):
            raise _broken(record, index, f"flags {flags:#x} do not fit the blob's features")
        else:
            if fill != unit_size:
                raise _broken(record, index, f"the unit before it has {fill} bytes of {unit_size}")
            columns.open_unit(u1 & _LOW40, u1 >> 40, size, not flags & _COMPRESSED)
            columns.unit_offset.append(0)
        columns.block.append(block)
        columns.size.append(size)
        block += -(-size // BLOCK)
        limit = block + gap
        if block > _LOW32:
            raise _broken(record, index, "lies beyond the last block address")
    if fill != unit_size or context + 1 != context_count:
        raise FormatInvalid(
            f"blob {record.id}: chunks end in unit {context} of {context_count}, or within it"
        )
    return columns


def read_zran(record: BlobRecord, raw: bytes) -> Columns:
    """The columns of an array of 24-byte entries and inflate contexts: the chunks of a context are a unit.

    Contexts without chunks make no unit.

    Raises:
        FormatInvalid: chunks overlap, are too far apart, or not in the order of contexts and their output.
    """
    # Here: most images have none, and a mount waits for every module.
    from .inflate_index import InflateIndex

    entries = CHUNK_INFO_V2.size * record.chunk_count
    columns = Columns()
    limit, gap = 0, record.chunk_size // BLOCK
    block, context, fill, point = 0, -1, 0, None
    columns.index = points = InflateIndex(raw[entries:])
    for index, (u0, _, u2) in enumerate(CHUNK_INFO_V2.struct.iter_unpack(raw[:entries])):
        flags, size, offset = u0 >> 56, (u0 >> 32 & _LOW24) + 1, u2 & _LOW32
        if flags != _ZRAN_FLAGS:
            raise _broken(record, index, f"flags {flags:#x}, expected {_ZRAN_FLAGS:#x} in a ZRAN blob")
        if not block <= u0 & _LOW32 <= limit:
            raise _broken(record, index, f"starts at block {u0 & _LOW32}, expected {block}")
        block = u0 & _LOW32
        if u2 >> 32 != context or point is None:
            if u2 >> 32 < context:
                raise _broken(record, index, f"is in context {u2 >> 32}, the one before it in {context}")
            context, fill = u2 >> 32, 0
            point = points.point(context)
            columns.open_unit(point.in_offset, point.in_size, point.out_size, raw=False)
            columns.unit_point.append(context)
        if offset < fill or offset + size > point.out_size:
            raise _broken(
                record,
                index,
                f"{counted(size, 'byte')} at {offset} of context {context}: {fill} to {point.out_size} left",
            )
        fill = offset + size
        columns.unit_offset.append(offset)
        columns.block.append(block)
        columns.size.append(size)
        block += -(-size // BLOCK)
        limit = block + gap
        if block > _LOW32:
            raise _broken(record, index, "lies beyond the last block address")
    return columns


def judge_units(record: BlobRecord, columns: Columns) -> None:
    """Return if the units ascend, lie within the object, and can be decoded within our bounds.

    Raises:
        FormatInvalid: they do not.
        FormatUnsupported: a unit is larger than `MAX_UNIT`.
    """
    where = f"blob {record.id}"
    largest = max(columns.size)
    if largest > record.chunk_size:
        raise FormatInvalid(
            f"{where}: a chunk has {largest} bytes, the blob table says at most {record.chunk_size}"
        )
    if max(columns.unit_size) > MAX_UNIT:
        raise FormatUnsupported(f"a unit of {max(columns.unit_size)} bytes", f"{where}, at most {MAX_UNIT}")
    stored_raw = record.compressor is Compressor.NONE
    overlapping, encrypted = columns.index is not None, record.cipher is not Cipher.NONE
    end = start = total = 0
    for index, (offset, compressed, size, raw) in enumerate(
        zip(
            columns.unit_compressed_offset,
            columns.unit_compressed_size,
            columns.unit_size,
            columns.unit_raw,
            strict=True,
        )
    ):
        if offset < (start if overlapping else end):
            raise FormatInvalid(f"{where}: unit {index} starts at {offset}, the one before ends at {end}")
        start, end = offset, max(end, offset + compressed)
        total += compressed
        if (
            compressed == 0
            or (raw and compressed != (CIPHER_FILLED if encrypted and size < CIPHER_BLOCK else size))
            or (stored_raw and not raw)
            or compressed > MAX_UNIT
        ):
            raise FormatInvalid(f"{where}: unit {index} has {compressed} stored bytes for {size}")
    if total > _MAX_OVERLAP * max(end, MAX_UNIT):
        raise FormatInvalid(f"{where}: its units have {total} stored bytes in an object of {end}")
    if end > record.chunks_end:
        raise FormatInvalid(
            f"{where}: the last unit ends at {end}, its object's chunks at {record.chunks_end}"
        )
    space = columns.block[-1] * BLOCK + columns.size[-1]
    space += -space % BLOCK
    if not space <= record.uncompressed_size <= space + record.chunk_size:
        raise FormatInvalid(
            f"{where}: chunks fill {space} bytes, the blob table says {record.uncompressed_size}"
        )
    starts = [columns.block[first] for first in columns.unit_first]
    widest = max(map(sub, [*starts[1:], space // BLOCK], starts)) * BLOCK
    if widest > MAX_UNIT_SPAN:
        raise FormatUnsupported(f"a unit spread over {widest} bytes", f"{where}, at most {MAX_UNIT_SPAN}")
