"""The last layer of a converted image, unpacked in memory: the bootstrap and what lies beside it.

The layer's digest was verified before it comes here, but whoever wrote the image may be hostile: sizes are
bounded, and nothing is ever unpacked to a path of the tar's choosing. Serves mounts as well as conversions
that share with earlier images, so it loads little; the writer (`bootstrap_layer`) has its names from here.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from rafs.records import CHUNK_INFO_HEADER

BOOTSTRAP: Final = "image/image.boot"
RECORD: Final = "image/nopull.layers"
# Ten times the bootstrap of a million files, and what a server can hold.
UNPACKED_LIMIT: Final = 1 << 30  # bytes
PACKED_LIMIT: Final = 256 << 20  # bytes

_META = re.compile(r"image/([0-9a-f]{64})\.blob\.meta")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


class BootstrapLayerInvalid(Exception):
    """A bootstrap layer is damaged, too large, or none; callers say what that means for the image."""


@dataclass(frozen=True, slots=True)
class BootstrapParts:
    """What the layer holds."""

    bootstrap: bytes
    metas: Mapping[str, bytes]  # chunk info in cache form, by the digest (hex) of the blob's object
    record: bytes | None = None  # see `layer_record`

    @property
    def whole_metas(self) -> Mapping[str, bytes]:
        """The *metas* that tell chunks: `nydusify convert --compressor lz4_block` stores a header alone."""
        return {blob_id: form for blob_id, form in self.metas.items() if len(form) != CHUNK_INFO_HEADER.size}


def meta_name(blob_id: str) -> str:
    """What the chunk info of a blob is called; *blob_id* is the digest (hex) of its object."""
    return f"image/{blob_id}.blob.meta"


def read_bootstrap_layer(
    pieces: Iterable[bytes], where: str, unpacked: Callable[[bytes], None] | None = None
) -> BootstrapParts:
    """The parts of the layer that comes in *pieces* (gzip, zstd or plain tar); *where* names it in errors.

    *unpacked* is given the tar, whatever is in it: who wants its digest need not keep it.

    Raises:
        BootstrapLayerInvalid: damaged, too large, or without a bootstrap.
        and what iterating *pieces* raises.
    """
    # Imported here: while the first bytes travel there is time for it, before there is none.
    from registry_client.layouts.tar_members import MemberKind, TarInvalid, tar_members

    packed = bytearray()
    for piece in pieces:
        packed += piece
        if len(packed) > PACKED_LIMIT:
            raise BootstrapLayerInvalid(
                f"{where} has more than {PACKED_LIMIT} bytes, too many for a bootstrap"
            )
    plain = _decompress(bytes(packed), where)
    if unpacked is not None:
        unpacked(plain)
    found: dict[str, bytes] = {}
    metas: dict[str, bytes] = {}
    try:
        for member in tar_members(len(plain), lambda offset, size: plain[offset : offset + size]):
            name = member.name.removeprefix("./")
            meta = _META.fullmatch(name)
            if name not in (BOOTSTRAP, RECORD) and meta is None:
                continue
            if member.kind is not MemberKind.FILE:
                raise BootstrapLayerInvalid(f"{where} has {name}, but not as a plain file")
            content = plain[member.offset : member.offset + member.size]
            if meta is None:
                found[name] = content
            else:
                metas[meta[1]] = content
    except TarInvalid as error:
        raise BootstrapLayerInvalid(f"{where} is not a tar archive: {error}") from error
    if BOOTSTRAP not in found:
        raise BootstrapLayerInvalid(f"{where} lacks the bootstrap {BOOTSTRAP}")
    return BootstrapParts(found[BOOTSTRAP], metas, found.get(RECORD))


def _decompress(packed: bytes, where: str) -> bytes:
    try:
        if packed.startswith(_GZIP):
            return _inflate(packed, where)
        if packed.startswith(_ZSTD):
            import zstandard

            try:
                with zstandard.ZstdDecompressor().stream_reader(packed) as reader:
                    plain = reader.read(UNPACKED_LIMIT + 1)
            except zstandard.ZstdError as error:
                raise BootstrapLayerInvalid(f"{where} is damaged: {error}") from error
            return _bounded(plain, where)
    except zlib.error as error:
        raise BootstrapLayerInvalid(f"{where} is damaged: {error}") from error
    return packed


def _inflate(packed: bytes, where: str) -> bytes:
    stream = zlib.decompressobj(31)  # 15 bits of window, with a gzip header
    plain = stream.decompress(packed, UNPACKED_LIMIT + 1)
    if not stream.eof and len(plain) <= UNPACKED_LIMIT:
        raise BootstrapLayerInvalid(f"{where} is damaged: its gzip stream ends early")
    return _bounded(plain, where)


def _bounded(plain: bytes, where: str) -> bytes:
    if len(plain) > UNPACKED_LIMIT:
        raise BootstrapLayerInvalid(
            f"{where} unpacks to more than {UNPACKED_LIMIT} bytes, too many for a bootstrap"
        )
    return plain
