"""Turns the compressed bytes of one window into verified bytes in its file, unit by unit.

Owns where the window's filling stands: which unit is next, how much is verified and written. Starts behind
what the file already holds, if that passes its digests, so a filler that was killed costs nothing but the
unit it was in. Knows no requests, no retries, no priorities. Serves `range_fetch`.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

import xxhash

from chunk_store.errors import StoreError
from chunk_store.fill import Fill
from chunk_store.local_chunks import LocalChunks
from chunk_store.sums import Sum
from chunk_store.window_file import LockedWindow
from rafs.blob_meta import BlobMeta, Chunk
from rafs.units import UnitDecoder, digest_of
from rafs.windows import Window

_PAGE = 4096


class WriteRefused(StoreError):
    """The window's file took no more bytes; `cause` is the OSError."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"writing a window: {cause.strerror or cause}")
        self.cause = cause


class VerifiedPrefix:
    """How much of a window's file, written by somebody, is right: asked of the digests, not of its length."""

    def __init__(self, blob: BlobMeta, window: Window) -> None:
        self._blob = blob
        self._window = window
        self._digest = digest_of(blob.digester)
        self.next_chunk = window.first_chunk
        self.end = 0  # bytes of the window

    def extend(self, read: Callable[[int, int], bytes], size: int) -> int:
        """Look further into a file of *size* bytes through *read*(offset, size); return how many are right.

        Counted to the end of the last right chunk's page.
        """
        window = self._window
        while self.next_chunk < window.first_chunk + window.chunk_count:
            chunk = self._blob.chunk(self.next_chunk)
            begin = chunk.offset - window.start
            end = min(_page_end(begin + chunk.size), window.length)
            if end > size:
                break
            found = read(self.end, end - self.end)
            gap, body = found[: begin - self.end], found[begin - self.end : begin - self.end + chunk.size]
            padding = found[len(gap) + len(body) :]
            # What lies between chunks is part of what a mount shows, so it has to be zeros.
            if (
                len(found) != end - self.end
                or (gap + padding).strip(b"\0")
                or self._digest(body) != chunk.digest
            ):
                break
            self.next_chunk += 1
            self.end = end
        if self.next_chunk == window.first_chunk + window.chunk_count and size >= window.length:
            rest = read(self.end, window.length - self.end)
            if not rest.strip(b"\0") and len(rest) == window.length - self.end:
                self.end = window.length
        return self.end


class WindowSink:
    """Fills one window. Used by one thread at a time.

    Parameters:
        locked: its file under lock; None fills the window in memory.
    """

    def __init__(self, blob: BlobMeta, window: Window, fill: Fill, locked: LockedWindow | None) -> None:
        self._blob = blob
        self._window = window
        self.fill = fill
        self._locked = locked
        self._memory: bytearray | None = None
        self._checksum = xxhash.xxh3_64()
        self._at = 0  # bytes of the window written or kept
        self._unit = window.first_unit
        self._decoder: UnitDecoder | None = None
        if locked is None:
            self._keep_in_memory()
        elif locked.size:
            self._adopt(locked)

    @property
    def number(self) -> int:
        """The window's number in its attachment."""
        return self.fill.number

    @property
    def window(self) -> Window:
        return self._window

    @property
    def finished(self) -> bool:
        """Whether the whole window is verified and in its place."""
        return self._at == self._window.length

    @property
    def unit_begun(self) -> bool:
        """Whether some bytes of `next_unit` have been fed."""
        return self._decoder is not None

    @property
    def next_unit(self) -> int:
        """The unit whose bytes are wanted next, or are being fed."""
        return self._unit

    @property
    def wanted_from(self) -> int:
        """Where in the blob the bytes wanted next begin."""
        unit = self._blob.unit(self._unit)
        return unit.compressed_offset + unit.compressed_size - self.wanted_size

    @property
    def wanted_size(self) -> int:
        """How many bytes from `wanted_from` belong to the same unit."""
        return self._decoder.missing if self._decoder else self._blob.unit(self._unit).compressed_size

    def feed(self, piece: bytes) -> None:
        """Take the next bytes of the unit, at most `wanted_size`; what they complete is written and readers
        are woken.

        Raises:
            RafsError: they are not what the digests promise; nothing of the offending chunk was written.
            WriteRefused: the file took no more, and no reader waits for it.
        """
        if self._decoder is None:
            self._decoder = UnitDecoder(self._blob, self._blob.unit(self._unit))
        self._put(self._decoder.feed(piece))
        if self._decoder.missing == 0:
            self._decoder.finish()
            self._end_unit()

    def copy_local(self, local: LocalChunks) -> int:
        """Take the next units from *local* for as long as it has them; return how many bytes of chunks that
        were. Only between two units.

        Raises:
            WriteRefused: as `feed`.
        """
        copied = 0
        while not self.finished and self._decoder is None:
            unit = self._blob.unit(self._unit)
            chunks = local.copy(self._blob, unit) if local.has(self._blob, unit) else None
            if chunks is None:
                break
            self._put(chunks)
            self._end_unit()
            copied += sum(len(content) for _, content in chunks)
        return copied

    def restart_unit(self) -> None:
        """Forget the bytes of the unit under way; it is wanted from its beginning."""
        self._decoder = None
        # Chunks of this unit that are already in place are right; they are written again, so the checksum
        # must not have them.
        self._rewind(self._blob.unit(self._unit).first_chunk)

    def seal(self) -> Sum | None:
        """Let the finished window go; its record for the next checkpoint, None if it is in memory only."""
        assert self.finished
        if self._locked is None:
            return None
        mtime = self._locked.seal()
        self.close()
        return Sum(self._window.id, self._checksum.intdigest(), self._window.length, mtime)

    def close(self) -> None:
        """Let the lock go, finished or not."""
        if self._locked is not None:
            self._locked.close()
            self._locked = None

    def _end_unit(self) -> None:
        self._decoder = None
        self._unit += 1
        if self._unit == self._window.first_unit + self._window.unit_count:
            self._write([bytes(self._window.length - self._at)])
        self.fill.advance(self._at)

    def _adopt(self, locked: LockedWindow) -> None:
        prefix = VerifiedPrefix(self._blob, self._window)
        verified = prefix.extend(locked.read, locked.size)
        if verified == self._window.length:
            self._checksum.update(locked.read(0, verified))
            self._at = verified
        else:
            self._unit = self._blob.unit_of_chunk(prefix.next_chunk)
            self._rewind(self._blob.unit(self._unit).first_chunk)
        self.fill.advance(verified)

    def _rewind(self, chunk_index: int) -> None:
        upto = self._blob.chunk(chunk_index).offset - self._window.start
        self._checksum = xxhash.xxh3_64(self._read_back(upto))
        self._at = upto

    def _read_back(self, size: int) -> bytes:
        if self._locked is not None:
            return self._locked.read(0, size)
        return bytes(self._memory[:size]) if self._memory is not None else b""

    def _put(self, chunks: list[tuple[Chunk, bytes]]) -> None:
        if not chunks:
            return
        pieces: list[bytes] = []
        end = self._at
        for chunk, content in chunks:
            begin = chunk.offset - self._window.start
            after = min(_page_end(begin + len(content)), self._window.length)
            pieces += (bytes(begin - end), content, bytes(after - begin - len(content)))
            end = after
        self._write(pieces)
        self.fill.advance(self._at)

    def _write(self, pieces: list[bytes]) -> None:
        pieces = [piece for piece in pieces if piece]
        if self._locked is not None:
            try:
                self._locked.write(self._at, pieces)
            except OSError as error:
                # A file that was cut is still a good place: it is only begun again.
                if not self.fill.wanted or error.errno == errno.ESTALE:
                    raise WriteRefused(error) from error
                self.fill.refused(error)
                self._keep_in_memory()
        at = self._at
        for piece in pieces:
            if self._memory is not None:
                self._memory[at : at + len(piece)] = piece
            self._checksum.update(piece)
            at += len(piece)
        self._at = at

    def _keep_in_memory(self) -> None:
        memory = bytearray(self._window.length)
        prefix = self._read_back(self._at)
        if len(prefix) != self._at:
            raise WriteRefused(OSError(errno.ESTALE, "the window file was cut while it was being filled"))
        memory[: self._at] = prefix
        self._memory = memory
        self.fill.move_to_memory(memory, self._at)
        self.close()


def _page_end(offset: int) -> int:
    return -(-offset // _PAGE) * _PAGE
