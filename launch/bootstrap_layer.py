"""The last layer of a converted image, unpacked in memory: the bootstrap and the blobs' chunk info.

The layer's digest was verified before it comes here, but whoever wrote the image may be hostile: sizes are
bounded, and nothing is ever unpacked to a path of the tar's choosing.
"""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from launch.errors import ImageInvalid

BOOTSTRAP = "image/image.boot"
# Ten times the bootstrap of a million files, and what a server can hold.
UNPACKED_LIMIT = 1 << 30  # bytes
PACKED_LIMIT = 256 << 20  # bytes

_META = re.compile(r"image/([0-9a-f]{64})\.blob\.meta")
_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True, slots=True)
class BootstrapParts:
    """What the layer holds."""

    bootstrap: bytes
    metas: Mapping[str, bytes]  # chunk info in cache form, by the digest (hex) of the blob's object


def unpack(pieces: Iterable[bytes], where: str) -> BootstrapParts:
    """The parts of the layer that comes in *pieces* (gzip, zstd or plain tar); *where* names it in errors.

    Raises:
        ImageInvalid: damaged, too large, or without a bootstrap.
        and what iterating *pieces* raises.
    """
    # Imported here: while the first bytes travel there is time for it, before there is none.
    import tarfile

    packed = bytearray()
    for piece in pieces:
        packed += piece
        if len(packed) > PACKED_LIMIT:
            raise ImageInvalid(f"{where} has more than {PACKED_LIMIT} bytes, too many for a bootstrap")
    plain = _decompress(bytes(packed), where)
    bootstrap: bytes | None = None
    metas = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(plain), mode="r:") as archive:
            for member in archive:
                name = member.name.removeprefix("./")
                meta = _META.fullmatch(name)
                if not member.isreg() or (name != BOOTSTRAP and meta is None):
                    continue
                file = archive.extractfile(member)
                content = file.read() if file is not None else b""
                if len(content) != member.size:
                    raise ImageInvalid(f"{where} ends in the middle of {name}")
                if meta is None:
                    bootstrap = content
                else:
                    metas[meta[1]] = content
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise ImageInvalid(f"{where} is not a tar archive: {error}") from error
    if bootstrap is None:
        raise ImageInvalid(f"{where} lacks the bootstrap {BOOTSTRAP}")
    return BootstrapParts(bootstrap, metas)


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
                raise ImageInvalid(f"{where} is damaged: {error}") from error
            return _bounded(plain, where)
    except zlib.error as error:
        raise ImageInvalid(f"{where} is damaged: {error}") from error
    return packed


def _inflate(packed: bytes, where: str) -> bytes:
    stream = zlib.decompressobj(31)  # 15 bits of window, with a gzip header
    plain = stream.decompress(packed, UNPACKED_LIMIT + 1)
    if not stream.eof and len(plain) <= UNPACKED_LIMIT:
        raise ImageInvalid(f"{where} is damaged: its gzip stream ends early")
    return _bounded(plain, where)


def _bounded(plain: bytes, where: str) -> bytes:
    if len(plain) > UNPACKED_LIMIT:
        raise ImageInvalid(f"{where} unpacks to more than {UNPACKED_LIMIT} bytes, too many for a bootstrap")
    return plain
