"""One layer's files packed into one blob, on several cores, in an order that only the content decides.

Chunks that an earlier layer of the same image has are not stored again, so a blob depends on its layer and
on those below it, never on what lies above, on timing or on the number of workers. Memory is bounded by the
units in flight.

Not here: unit borders, compression and the blob's tables (`rafs`), and uploading.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from builder.file_chunks import NOWHERE, file_chunks
from builder.layer_record import packed_refs
from builder.scratch import ScratchFile
from builder.tar_index import TarEntry
from rafs.blob_writer import BlobWriter, PackedUnit, pack_unit
from rafs.finished_blob import FinishedBlob
from rafs.tree import Node, chunk_ref, split_ref
from rafs.unit_cutter import UnitCutter

_REPORT_EVERY: Final = 1 << 20  # bytes; small files are packed faster than they are reported


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A finished blob with its object in a scratch file, and where its chunks came from."""

    blob: FinishedBlob
    content: ScratchFile  # the whole blob object, owned by whoever has this
    spool: ScratchFile  # the layer's tar, not owned
    origins: array[int]  # per chunk: byte offset in spool

    def chunk(self, index: int) -> bytes | None:
        """The bytes of one chunk; None where they are not in one piece."""
        if self.origins[index] == NOWHERE:
            return None
        return self.spool.read(self.origins[index], self.blob.sizes[index])


class StoredBlob(Protocol):
    """A blob of the image in the making, packed in this run or long ago."""

    @property
    def blob(self) -> FinishedBlob: ...

    def chunk(self, index: int) -> bytes | None:
        """The bytes of one chunk; None where they are hard to get at."""


@dataclass(frozen=True, slots=True)
class PackOptions:
    """Sizes in bytes; *level* is zstd's."""

    chunk_size: int
    batch_size: int
    level: int


class ImagePacker:
    """Packs the layers of one image, lowest first, into blobs numbered from 0. Used by one thread."""

    def __init__(
        self, options: PackOptions, pool: ThreadPoolExecutor, *, jobs: int, directory: Path | None
    ) -> None:
        """*pool* compresses, with at most *jobs* units at a time; blobs are made in *directory*."""
        self._options = options
        self._pool = pool
        self._in_flight = jobs + 2
        self._directory = directory
        self._known: dict[bytes, int] = {}
        self.blobs: list[StoredBlob] = []  # by key
        self.chunks_shared = 0

    def adopt(self, stored: StoredBlob) -> None:
        """Give a blob that exists the next key; its chunks are referred to, not stored again."""
        key = len(self.blobs)
        for index in range(stored.blob.chunk_count):
            self._known.setdefault(stored.blob.digest(index), chunk_ref(key, index))
        self.blobs.append(stored)

    def pack(
        self, files: Sequence[TarEntry], spool: ScratchFile, proceed: Callable[[int], None]
    ) -> LayerBlob | None:
        """Store what is new in *files*, whose bytes lie in *spool*, and set the nodes' chunks.

        None if nothing was new; such a layer has no blob. *proceed* is told the bytes read, and may raise.

        Raises:
            SpoolFull, SpoolFailed: of the blob's scratch file or the spool.
            ImageTooLarge: the blob has more chunks than the format can number.
        """
        run = _BlobRun(self._options, self._pool, self._in_flight, ScratchFile(self._directory))
        try:
            unreported = 0
            for entry in files:
                assert entry.node is not None
                entry.node.chunks = self._store(entry, spool, run)
                unreported += entry.node.size
                if unreported >= _REPORT_EVERY:
                    proceed(unreported)
                    unreported = 0
            proceed(unreported)
            if not run.count:
                run.content.close()
                return None
            made = LayerBlob(run.finish(), run.content, spool, run.origins)
        except BaseException:
            run.abandon()
            raise
        self.blobs.append(made)
        return made

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Bytes of a regular file that was packed, for a look inside; fewer where they are hard to get at."""
        chunk_size = self._options.chunk_size
        found = []
        for ref in node.chunks[offset // chunk_size : -(-(offset + size) // chunk_size)]:
            key, index = split_ref(ref)
            content = self.blobs[key].chunk(index)
            if content is None:
                break
            found.append(content)
        start = offset % chunk_size
        return b"".join(found)[start : start + size]

    def _store(self, entry: TarEntry, spool: ScratchFile, run: _BlobRun) -> Sequence[int]:
        known = self._known
        key = len(self.blobs)
        refs = []
        for origin, content, digest in file_chunks(entry, spool, self._options.chunk_size):
            ref = known.get(digest)
            if ref is None:
                ref = known[digest] = chunk_ref(key, run.count)
                run.add(content, digest, origin)
            else:
                self.chunks_shared += 1
            refs.append(ref)
        return packed_refs(refs)


class _BlobRun:
    """One blob in the making: chunks go in, units are compressed by the pool and written in order."""

    def __init__(
        self, options: PackOptions, pool: ThreadPoolExecutor, in_flight: int, content: ScratchFile
    ) -> None:
        self.content = content
        self.count = 0
        self.origins: array[int] = array("Q")
        self._writer = BlobWriter(chunk_size=options.chunk_size)
        self._cutter = UnitCutter(options.batch_size)
        self._pack = partial(pack_unit, level=options.level)
        self._pool = pool
        self._in_flight = in_flight
        self._waiting: deque[Future[PackedUnit]] = deque()
        self._chunks: list[bytes] = []
        self._digests: list[bytes] = []

    def add(self, content: bytes, digest: bytes, origin: int) -> None:
        if self._cutter.begins_unit(len(content), digest):
            self._submit()
        self._chunks.append(content)
        self._digests.append(digest)
        self.origins.append(origin)
        self.count += 1

    def finish(self) -> FinishedBlob:
        self._submit()
        while self._waiting:
            self._write_next()
        tail, blob = self._writer.finish()
        self.content.append(tail)
        return blob

    def abandon(self) -> None:
        for future in self._waiting:
            future.cancel()
        self.content.close()

    def _submit(self) -> None:
        if not self._chunks:
            return
        if len(self._waiting) >= self._in_flight:
            self._write_next()
        self._waiting.append(self._pool.submit(self._pack, self._chunks, self._digests))
        self._chunks, self._digests = [], []

    def _write_next(self) -> None:
        self.content.append(self._writer.add_unit(self._waiting.popleft().result()))
