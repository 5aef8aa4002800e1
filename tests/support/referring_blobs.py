"""Blobs whose stored bytes are somebody else's: stretches of a tar.gz (ZRAN), and encrypted pieces.

Encoders of their own, so that the readers are proved by neither our code nor Nydus' tools alone.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Sequence
from dataclasses import replace

from cryptography.hazmat.primitives.ciphers import Cipher as Encryption
from cryptography.hazmat.primitives.ciphers import algorithms, modes

from rafs.chunk_info import ChunkInfo, decode_v2, encode_v2
from rafs.codes import BlobFeature, ChunkFlag, Cipher, Compressor, Digester
from rafs.records import BATCH_CONTEXT, CHUNK_INFO_V2, ZRAN_CONTEXT, ZranContext
from tests.support.blob_metas import MadeBlob, plain_blob
from tests.support.deflate_blocks import Block, blocks_of

KEY, TWEAK = bytes(range(100, 132)), bytes(range(16))
_WINDOW = 32 << 10


def gzip_members(pieces: Sequence[bytes], *, level: int = 6, memory: int = 8, strategy: int = 0) -> bytes:
    """Each piece as a gzip member; little *memory* makes small blocks."""
    found = []
    for piece in pieces:
        packer = zlib.compressobj(level, zlib.DEFLATED, 31, memory, strategy)
        found.append(packer.compress(piece) + packer.flush())
    return b"".join(found)


def zran_blob(packed: bytes, places: Sequence[tuple[int, int]], span: int) -> MadeBlob:
    """The parts (offset, size) of what the gzip file *packed* makes, in stretches of about *span* bytes."""
    blocks, content = blocks_of(packed)
    starts = [blocks[0]]
    for block in blocks:
        if block.out_start - starts[-1].out_start >= span:
            starts.append(block)
    contexts: list[ZranContext] = []
    dictionaries = b""
    chunks: list[ChunkInfo] = []
    space = 0
    for number, start in enumerate(starts):
        after = starts[number + 1].out_start if number + 1 < len(starts) else len(content)
        mine = [place for place in places if start.out_start <= place[0] < after]
        for offset, size in mine:
            flags = ChunkFlag.COMPRESSED | ChunkFlag.ZRAN
            chunks.append(ChunkInfo(space, size, 0, 0, flags, number, offset - start.out_start))
            space += size + -size % 4096
        end = max([after, *(offset + size for offset, size in mine)])
        dictionary = content[max(0, start.out_start - _WINDOW) : start.out_start]
        contexts.append(_context(packed, blocks, start, end, len(dictionaries), len(dictionary)))
        dictionaries += dictionary
    array = b"".join(CHUNK_INFO_V2.pack(encode_v2(chunk)) for chunk in chunks)
    array += b"".join(map(ZRAN_CONTEXT.pack, contexts)) + dictionaries
    made = plain_blob(
        [content[offset : offset + size] for offset, size in places], Compressor.NONE, version=2
    )
    features = BlobFeature.ZRAN | BlobFeature.SEPARATE | BlobFeature.CHUNK_INFO_V2 | BlobFeature.ALIGNED
    record = replace(
        made.record,
        features=features,
        compressor=Compressor.GZIP,
        digester=Digester.SHA256,
        compressed_size=len(packed),
        ci_offset=0,
        ci_compressed_size=len(array),
        ci_uncompressed_size=len(array),
    )
    digests = [hashlib.sha256(content[offset : offset + size]).digest() for offset, size in places]
    used = {chunk.context for chunk in chunks}
    stored = [
        packed[context.in_offset : context.in_offset + context.in_size]
        for number, context in enumerate(contexts)
        if number in used
    ]
    return MadeBlob(record, array, b"".join(digests), tuple(stored))


def _context(
    packed: bytes, blocks: Sequence[Block], start: Block, end: int, dict_offset: int, dict_size: int
) -> ZranContext:
    first = -(-start.start // 8)
    bits = -start.start % 8
    last = next(block for block in blocks if block.out_end >= end)
    return ZranContext(
        in_offset=first,
        out_offset=start.out_start,
        dict_offset=dict_offset,
        in_size=-(-last.end // 8) - first,
        out_size=end - start.out_start,
        dict_size=dict_size,
        bit_byte=packed[first - 1] if bits else 0,
        bits=bits,
    )


def encrypted_blob(blob: MadeBlob) -> MadeBlob:
    """A V2 *blob* with every stored piece encrypted."""
    stored = tuple(encrypted(piece) for piece in blob.stored)
    count = blob.record.chunk_count
    contexts = [
        context._replace(compressed_size=len(piece))
        for context, piece in zip(BATCH_CONTEXT.unpack_all(blob.array[24 * count :]), stored, strict=False)
    ]
    entries, place = [], 0
    for entry in map(decode_v2, CHUNK_INFO_V2.unpack_all(blob.array[: 24 * count])):
        flags = entry.flags | ChunkFlag.ENCRYPTED
        if contexts:
            place = sum(len(piece) for piece in stored[: entry.context])
            entries.append(entry._replace(flags=flags, compressed_offset=place))
        else:
            size = len(stored[len(entries)])
            entries.append(entry._replace(flags=flags, compressed_offset=place, compressed_size=size))
            place += size
    array = b"".join(CHUNK_INFO_V2.pack(encode_v2(entry)) for entry in entries)
    array += b"".join(map(BATCH_CONTEXT.pack, contexts))
    record = replace(
        blob.record,
        features=blob.record.features | BlobFeature.ENCRYPTED,
        cipher=Cipher.AES_128_XTS,
        meta_digest=KEY,
        meta_size=int.from_bytes(TWEAK[:8], "little"),
        iv_tail=TWEAK[8:],
        ci_offset=sum(map(len, stored)),
    )
    return replace(blob, record=record, array=array, stored=stored)


def encrypted(piece: bytes) -> bytes:
    """*piece* as Nydus' tools encrypt it."""
    if len(piece) < 16:
        missing = 16 - len(piece)
        piece += bytes([missing]) * missing + b"\x78\x90"
    encryptor = Encryption(algorithms.AES(KEY), modes.XTS(TWEAK)).encryptor()
    return encryptor.update(piece) + encryptor.finalize()
