"""The last layer of a converted image: a small tar.gz with the bootstrap and the blobs' metadata.

The same content gives the same bytes: no times, owners or names of the machine, and pieces that are cut at
fixed places for the threads that compress them.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from builder.bootstrap_layer_reader import BOOTSTRAP, RECORD, meta_name
from builder.parallel_gzip import gzip_pieces
from builder.scratch import ScratchFile
from rafs.finished_blob import FinishedBlob

_PIECE: Final = 256 << 10  # bytes; smaller ones would compress noticeably worse


@dataclass(frozen=True, slots=True)
class BootstrapLayer:
    """The stored layer, owned by whoever has this; digests start with `sha256:`."""

    content: ScratchFile
    digest: str
    diff_id: str


def write_bootstrap_layer(
    bootstrap: bytes | bytearray,
    blobs: Sequence[FinishedBlob],
    directory: Path | None,
    record: bytes | None = None,
    *,
    threads: int = 1,
) -> BootstrapLayer:
    """The layer with *bootstrap* and the metadata of *blobs*, in their order, in a file in *directory*.

    *record* is what the next conversion wants to know (`layer_record`); it comes last, where a reader that
    has no use for it loses nothing. *threads* compress; the bytes are the same whatever their number.

    Raises:
        SpoolFull, SpoolFailed: it could not be written.
    """
    plain, stored = hashlib.sha256(), hashlib.sha256()

    def members() -> Iterator[tuple[str, bytes | bytearray]]:
        yield BOOTSTRAP, bootstrap
        for blob in blobs:
            yield meta_name(blob.id), blob.cache_form()
        if record is not None:
            yield RECORD, record

    def hashed() -> Iterator[bytes]:
        for piece in _cut(_tar(members())):
            plain.update(piece)
            yield piece

    content = ScratchFile(directory)
    try:
        for piece in gzip_pieces(hashed(), threads):
            stored.update(piece)
            content.append(piece)
    except BaseException:
        content.close()
        raise
    return BootstrapLayer(content, f"sha256:{stored.hexdigest()}", f"sha256:{plain.hexdigest()}")


def _tar(members: Iterable[tuple[str, bytes | bytearray]]) -> Iterator[bytes | bytearray]:
    """A folder, *members* in it, and the end of a tar; nothing is copied, a bootstrap may have 100 MB."""
    folder = tarfile.TarInfo("image/")
    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
    yield folder.tobuf(tarfile.USTAR_FORMAT)
    for name, content in members:
        member = tarfile.TarInfo(name)
        member.mode, member.size = 0o444, len(content)
        yield member.tobuf(tarfile.USTAR_FORMAT)
        yield content
        yield bytes(-len(content) % tarfile.BLOCKSIZE)
    # Not filled up to a record: `nydusify check` reads as far as here, and compares what it has read with the
    # diff id.
    yield bytes(2 * tarfile.BLOCKSIZE)


def _cut(parts: Iterable[bytes | bytearray]) -> Iterator[bytes]:
    """The bytes of *parts* in pieces of `_PIECE` bytes, the last one shorter."""
    pending = bytearray()
    for part in parts:
        for at in range(0, len(part), _PIECE):
            pending += memoryview(part)[at : at + _PIECE]
            if len(pending) >= _PIECE:
                yield bytes(pending[:_PIECE])
                del pending[:_PIECE]
    if pending:
        yield bytes(pending)
