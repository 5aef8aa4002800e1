"""The last layer of a converted image: a small tar.gz with the bootstrap and the blobs' metadata.

The same content gives the same bytes: no times, owners or names of the machine, and zlib at a fixed level,
whose output has not changed in many years (isal's differs between processors).
"""

from __future__ import annotations

import hashlib
import io
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from builder.layer_record import MEMBER
from builder.scratch import ScratchFile
from rafs.finished_blob import FinishedBlob

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_LEVEL: Final = 6
_GZIP_WINDOW: Final = 31  # 15, the largest, with a gzip header around it


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
) -> BootstrapLayer:
    """The layer with *bootstrap* and the metadata of *blobs*, in their order, in a file in *directory*.

    *record* is what the next conversion wants to know (`layer_record`); it comes last, where a reader that
    has no use for it loses nothing.

    Raises:
        SpoolFull, SpoolFailed: it could not be written.
    """
    content = ScratchFile(directory)
    try:
        sink = _GzipSink(content)
        with tarfile.open(fileobj=sink, mode="w|", format=tarfile.USTAR_FORMAT) as archive:
            folder = tarfile.TarInfo("image/")
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(folder)
            _add(archive, "image/image.boot", bootstrap)
            for blob in blobs:
                _add(archive, f"image/{blob.id}.blob.meta", blob.cache_form())
            if record is not None:
                _add(archive, MEMBER, record)
        return sink.finish()
    except BaseException:
        content.close()
        raise


def _add(archive: tarfile.TarFile, name: str, content: bytes | bytearray) -> None:
    member = tarfile.TarInfo(name)
    member.mode, member.size = 0o444, len(content)
    with io.BufferedReader(_Reader(content)) as opened:
        archive.addfile(member, opened)


class _Reader(io.RawIOBase):
    """A file over bytes that are not copied for it; a bootstrap may have a hundred megabytes."""

    def __init__(self, content: bytes | bytearray) -> None:
        super().__init__()
        self._rest = memoryview(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        target = memoryview(buffer)
        count = min(len(target), len(self._rest))
        target[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


class _GzipSink(io.RawIOBase):
    """Compresses what is written into a scratch file, and hashes both forms."""

    def __init__(self, content: ScratchFile) -> None:
        super().__init__()
        self._content = content
        self._compressor = zlib.compressobj(_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)
        self._plain = hashlib.sha256()
        self._stored = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, piece: ReadableBuffer) -> int:
        self._plain.update(piece)
        self._store(self._compressor.compress(piece))
        return memoryview(piece).nbytes

    def finish(self) -> BootstrapLayer:
        self._store(self._compressor.flush())
        return BootstrapLayer(
            self._content, f"sha256:{self._stored.hexdigest()}", f"sha256:{self._plain.hexdigest()}"
        )

    def _store(self, piece: bytes) -> None:
        self._stored.update(piece)
        self._content.append(piece)
