"""One layer's files packed into one blob, on several cores, in an order that only the content decides.

Which chunks a blob has and where its units end is decided first, from digests alone; then units are
compressed by any thread in any order, and written in theirs. Chunks that an earlier layer of the same image
has are not stored again (but for `neighbours`), so a blob depends on its layer and on those below it, never
on what lies above, on timing or on the number of workers. Memory is bounded by the units in flight.

Not here: which chunks share a unit (`unit_plan`), compression and the blob's tables (`rafs`), and uploading.
"""

from __future__ import annotations

import threading
from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from builder.chunk_spool import ChunkSpool
from builder.layer_record import packed_refs
from builder.layers.digest_runs import runs_of
from builder.layers.layer_room import CHUNKS_LIMIT
from builder.layers.tar_index import TarEntry
from builder.neighbours import NOWHERE, moved_chunks
from builder.scratch import ScratchFile
from builder.unit_plan import planned_units
from rafs.blob_writer import BlobWriter, PackedUnit, pack_content
from rafs.chunk_lists import ChunkLists, ChunkTables
from rafs.codes import DIGEST_SIZE
from rafs.errors import ImageTooLarge
from rafs.finished_blob import FinishedBlob
from rafs.tree import Node, chunk_ref, split_ref

_UNITS_EARLY: Final = 16  # how many may be compressed before one in front of them is


@dataclass(frozen=True, slots=True)
class PackOptions:
    """Sizes in bytes; *level* is zstd's."""

    chunk_size: int
    batch_size: int
    level: int


class Submit(Protocol):
    """Has work done by another thread, in the order of the calls; its failure is everybody's."""

    def __call__(self, work: Callable[[], None], /) -> object: ...


class StoredBlob(Protocol):
    """A blob of the image in the making, packed in this run or long ago."""

    @property
    def tables(self) -> ChunkTables:
        """Its chunks."""

    def blob(self) -> FinishedBlob:
        """All about it; waits while it is being written, and raises why it could not be."""

    def chunk(self, index: int) -> bytes:
        """The bytes of one chunk; those of an old blob are fetched."""

    def unit_of(self, index: int) -> int:
        """The number of the unit that has one chunk."""


class LayerBlob:
    """A blob that is being written by the threads that compress its units."""

    def __init__(self, options: PackOptions, spool: ChunkSpool, content: ScratchFile) -> None:
        self.tables: ChunkLists = ChunkLists(options.chunk_size)
        self.content = content  # the blob object, owned by whoever has this
        self.places = array("Q")  # per chunk: where it lies in the spool
        self._firsts = array("I")  # per unit: its first chunk
        self._spool = spool  # not owned
        self._level = options.level
        self._writer = BlobWriter(chunk_size=options.chunk_size)
        self._finished: Future[FinishedBlob] = Future()
        # Protects the four fields below; nothing else is taken or done while it is held.
        self._turn = threading.Condition()
        self._units: int | None = None  # how many there will be, once known
        self._ready: dict[int, PackedUnit] = {}
        self._written = 0
        self._writing = False

    def blob(self) -> FinishedBlob:
        """All about it; waits until it is written.

        Raises:
            SpoolFull, SpoolFailed, ImageTooLarge: it could not be.
        """
        return self._finished.result()

    def chunk(self, index: int) -> bytes:
        """The bytes of one chunk."""
        return self._spool.read(self.places[index : index + 1], self.tables.sizes[index : index + 1])

    def unit_of(self, index: int) -> int:
        """The number of the unit that has one chunk."""
        return bisect_right(self._firsts, index) - 1

    def add(self, unit: Sequence[bytes], sizes: Mapping[bytes, int]) -> int:
        """Number the chunks of *unit*, given as digests; the number of the first.

        Raises:
            ImageTooLarge: there are more than the format can number.
        """
        first = len(self.tables.sizes)
        self._firsts.append(first)
        for digest in unit:
            self.places.append(self._spool.places[digest])
            self.tables.add(sizes[digest], digest)
        return first

    def pack(self, number: int, first: int, end: int, proceed: Callable[[int], None]) -> None:
        """Compress unit *number*, chunks *first* to *end*; any thread, units started in their order.

        *proceed* is told the bytes, and may raise.
        """
        try:
            with self._turn:
                while number > self._written + _UNITS_EARLY and not self._finished.done():
                    self._turn.wait()
            sizes = self.tables.sizes[first:end]
            content = self._spool.read(self.places[first:end], sizes)
            digests = bytes(self.tables.digests[first * DIGEST_SIZE : end * DIGEST_SIZE])
            packed = pack_content(content, sizes, digests, level=self._level)
            proceed(len(content))
            with self._turn:
                self._ready[number] = packed
            self._write()
        except BaseException as error:
            self.fail(error)
            raise

    def close(self, units: int) -> None:
        """There are *units* units and no more."""
        with self._turn:
            self._units = units
        try:
            self._write()
        except BaseException as error:
            self.fail(error)
            raise

    def fail(self, error: BaseException) -> None:
        """Whoever waits for the blob gets *error*; the first one counts."""
        with self._turn:
            if not self._finished.done():
                self._finished.set_exception(error)
            self._turn.notify_all()

    def _write(self) -> None:
        """Append what is ready and next, unless another thread is at it, who then does."""
        with self._turn:
            if self._writing:
                return
            self._writing = True
        while True:
            with self._turn:
                unit = self._ready.pop(self._written, None)
                complete = self._written == self._units and not self._finished.done()
                if unit is None and not complete:
                    self._writing = False
                    return
            if unit is None:
                tail, blob = self._writer.finish()
                self.content.append(tail)
                with self._turn:
                    self._finished.set_result(blob)
                    self._writing = False
                return
            self.content.append(self._writer.add_unit(unit))
            with self._turn:
                self._written += 1
                self._turn.notify_all()


class ImagePacker:
    """Packs the layers of one image, lowest first, into blobs numbered from 0. Used by one thread."""

    def __init__(self, options: PackOptions, submit: Submit, *, directory: Path | None) -> None:
        """*submit* has units compressed; blobs are made in *directory*."""
        self._options = options
        self._submit = submit
        self._directory = directory
        self.known: dict[bytes, int] = {}  # references by digest; others may look things up meanwhile
        self._spares: dict[bytes, list[int]] = {}  # further ones, ascending
        self.blobs: list[StoredBlob] = []  # by key
        self.chunks_shared = 0
        self._room = CHUNKS_LIMIT  # chunks that further files may have

    def adopt(self, stored: StoredBlob) -> None:
        """Give a blob the next key; its chunks are referred to, not stored again."""
        known, first = self.known, chunk_ref(len(self.blobs), 0)
        raw, count, before = bytes(stored.tables.digests), len(stored.tables.sizes), len(known)
        digests = [raw[at : at + DIGEST_SIZE] for at in range(0, count * DIGEST_SIZE, DIGEST_SIZE)]
        for ref, digest in enumerate(digests, first):
            known.setdefault(digest, ref)
        if len(known) < before + count:
            for ref, digest in enumerate(digests, first):
                if known[digest] != ref:
                    self._spares.setdefault(digest, []).append(ref)
        self.blobs.append(stored)

    def pack(
        self, files: Sequence[TarEntry], spool: ChunkSpool, proceed: Callable[[int], None]
    ) -> LayerBlob | None:
        """Have what is new in *files*, whose new chunks lie in *spool*, stored, and set the nodes' chunks.

        None if nothing was new; such a layer has no blob. *proceed* is told the bytes that were compressed,
        by any thread, and may raise. Nothing is waited for.

        Raises:
            SpoolFull, SpoolFailed: no room for the blob's scratch file.
            ImageTooLarge: the blob has more chunks than the format can number, or all layers' files together.
            What reading chunks of adopted blobs does.
        """
        self._room -= sum(len(entry.digests) for entry in files)
        if self._room < 0:
            raise ImageTooLarge(
                f"the files of all layers have more than {CHUNKS_LIMIT} chunks of {self._options.chunk_size} "
                "bytes, which no image has room for"
            )
        known = self.known
        moved = moved_chunks(files, known, self._spares, self._in_one_unit) if self.blobs else {}
        usual = {digest: known[digest] for digest in moved}
        known.update(moved)
        again = [digest for digest, ref in moved.items() if ref == NOWHERE]
        for digest in again:
            del known[digest]  # else the spool would not take it
        self._copy([usual[digest] for digest in again], spool)
        sizes, continued = self._news(files)
        made = None
        if sizes:
            made = LayerBlob(self._options, spool, ScratchFile(self._directory))
            self._fill(made, planned_units(sizes, self._options.batch_size, continued), sizes, proceed)
            self.adopt(made)
        self.chunks_shared -= len(sizes)
        for entry in files:
            assert entry.node is not None
            refs: list[int] = []
            for digest, count in runs_of(entry.digests):
                refs += (known[digest],) * count
            self.chunks_shared += len(refs)
            entry.node.chunks = packed_refs(refs)
        # Further layers find what they would in an image whose blobs were all adopted.
        for digest in again:
            self._spares.setdefault(digest, []).append(known[digest])
        known.update(usual)
        return made

    def pack_copies(
        self,
        refs: Sequence[int],
        continued: Iterable[tuple[int, int]],
        spool: ChunkSpool,
        known: StoredBlob | None,
        proceed: Callable[[int], None],
    ) -> tuple[StoredBlob, dict[int, int]] | None:
        """(a blob with the chunks that *refs* name, unit by unit in their order, the references into it by
        those). *continued*: which of them goes on with which in some file.

        It is *known* if that has just them, else one that is being written from copies in *spool*. None if a
        blob of the image has just them already: two of one name are none.

        Raises:
            As `pack`, and what reading chunks of adopted blobs does.
        """
        key = len(self.blobs)
        digests = {ref: self._digest(ref) for ref in refs}
        sizes = {digest: self._size(ref) for ref, digest in digests.items()}
        rows = {(digests[one], digests[other]) for one, other in continued}
        units = list(planned_units(sizes, self._options.batch_size, rows))
        order = [digest for unit in units for digest in unit]
        numbers = {digest: chunk_ref(key, number) for number, digest in enumerate(order)}
        moved: dict[int, int] = {ref: numbers[digest] for ref, digest in digests.items()}
        wanted = b"".join(order)
        if any(stored.tables.digests == wanted for stored in self.blobs):
            return None
        if known is not None and known.tables.digests == wanted:
            self.blobs.append(known)
            return known, moved
        self._copy(refs, spool)
        made = LayerBlob(self._options, spool, ScratchFile(self._directory))
        self._fill(made, units, sizes, proceed)
        self.blobs.append(made)
        return made, moved

    def is_spare(self, ref: int) -> bool:
        """Whether a blob of a lower key has the chunk, too."""
        return bool(self._spares) and ref in self._spares.get(self._digest(ref), ())

    def read(self, node: Node, offset: int, size: int) -> bytes:
        """Bytes of a regular file that was packed, for a look inside."""
        chunk_size = self._options.chunk_size
        refs = node.chunks[offset // chunk_size : -(-(offset + size) // chunk_size)]
        start = offset % chunk_size
        return b"".join(map(self._chunk, refs))[start : start + size]

    def _news(self, files: Sequence[TarEntry]) -> tuple[dict[bytes, int], set[tuple[bytes, bytes]]]:
        """(sizes of the chunks of *files* that no blob has, by digest, in the order of their first use; which
        of them goes on with which).
        """
        known, chunk_size = self.known, self._options.chunk_size
        new: dict[bytes, int] = {}
        continued: set[tuple[bytes, bytes]] = set()
        for entry in files:
            assert entry.node is not None
            left = entry.node.size
            before = b""
            for digest, count in runs_of(entry.digests):
                if digest in known:
                    before = b""
                else:
                    new.setdefault(digest, min(left, chunk_size))
                    if before:
                        continued.add((before, digest))
                    before = digest
                left -= chunk_size * count
        return new, continued

    def _in_one_unit(self, ref: int, other: int) -> bool:
        (key, index), (other_key, other_index) = split_ref(ref), split_ref(other)
        stored = self.blobs[key]
        return key == other_key and stored.unit_of(index) == stored.unit_of(other_index)

    def _copy(self, refs: Iterable[int], spool: ChunkSpool) -> None:
        """Have *spool* take the chunks that *refs* name from the blobs that have them."""
        # In the order in which they lie, since a blob in a registry is read unit by unit.
        for ref in sorted(refs):
            spool.take(self._chunk(ref))
        spool.flush()

    def _fill(
        self,
        made: LayerBlob,
        units: Iterable[Sequence[bytes]],
        sizes: Mapping[bytes, int],
        proceed: Callable[[int], None],
    ) -> None:
        """Have *units*, lists of digests of chunks of *sizes*, compressed as all of *made*."""
        count = 0
        try:
            for unit in units:
                first = made.add(unit, sizes)
                self._submit(partial(made.pack, count, first, first + len(unit), proceed))
                count += 1
        except BaseException as error:
            made.fail(error)
            raise
        made.close(count)

    def _chunk(self, ref: int) -> bytes:
        key, index = split_ref(ref)
        return self.blobs[key].chunk(index)

    def _digest(self, ref: int) -> bytes:
        key, index = split_ref(ref)
        return bytes(self.blobs[key].tables.digests[index * DIGEST_SIZE : (index + 1) * DIGEST_SIZE])

    def _size(self, ref: int) -> int:
        key, index = split_ref(ref)
        return self.blobs[key].tables.sizes[index]
