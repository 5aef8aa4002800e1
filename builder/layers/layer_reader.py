"""A layer on its way in: unpacked, checked against its diff id, and cut into chunks, all while it passes.

Four threads for a layer: one fetches, one inflates, one hashes what comes out, and the caller's reads the tar
and hashes chunks. So one large layer keeps two cores busy, and inflating, which nothing can share, waits for
nothing. Not here: what the tar says (`tar_index`), and where chunks are kept (`chunk_spool`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Final

from builder.errors import LayerInvalid, LayerUnsupported
from builder.layers.layer_stream import plain_pieces
from builder.layers.tar_index import TakeChunk, TarEntry, read_entries
from builder.layers.tar_stream import TarStream
from rafs.counted import counted
from rafs.tree import fresh_copy

_PIECES_AHEAD: Final = 4  # of at most 1 MiB each, between any two of them


@dataclass(frozen=True, slots=True)
class ReadLayer:
    """What a layer's tar holds; `tar_bytes` is its size."""

    entries: list[TarEntry]
    tar_bytes: int

    def again(self) -> list[TarEntry]:
        """Entries with nodes of their own, for an image that has the layer more than once."""
        return [replace(one, node=one.node and fresh_copy(one.node)) for one in self.entries]


def read_layer(
    stored: Iterable[bytes],
    *,
    layer: str,
    diff_id: str,
    chunk_size: int,
    take: TakeChunk,
    proceed: Callable[[], None],
) -> ReadLayer:
    """Read the layer whose bytes, as they travel, are *stored*, which raises if *layer* is not their digest.

    *diff_id* is the `sha256:` digest of the plain tar; *take* gets the chunks of all files, cut every
    *chunk_size* bytes, before it is known whether they are the layer's; *proceed* is called between pieces,
    and may raise to give up.

    Raises:
        LayerInvalid: corrupt compression, not a tar, or the content is not that of *diff_id*.
        LayerUnsupported: an entry that no Linux file system image can show.
        What *stored* and *take* raise passes through.
    """
    with ExitStack() as owned:
        source = owned.enter_context(_ahead(iter(stored)))
        plain = plain_pieces(source, layer)
        pieces = owned.enter_context(_ahead(_told_apart(plain.pieces, source)))
        # The source has a layer's digest checked, which of one that is not compressed is the diff id, too.
        checked = plain.as_stored and layer == diff_id
        checksum = None if checked else owned.enter_context(_checksum())
        seen = _Passing(pieces, checksum, proceed)
        wrong: LayerInvalid | LayerUnsupported | None = None
        entries: list[TarEntry] = []
        try:
            entries += read_entries(TarStream(seen.pieces()), layer, chunk_size=chunk_size, take=take)
        except (LayerInvalid, LayerUnsupported) as error:
            wrong = error
        # A layer that is not the one promised is worth more words than what is odd about its tar.
        deque(seen.pieces(), maxlen=0)
        found = layer if checksum is None else f"sha256:{checksum.digest()}"
        if found != diff_id and not seen.failed:
            raise LayerInvalid(
                f"layer {layer}: unpacked to {counted(seen.size, 'byte')} with digest {found}, the image's"
                f" config says {diff_id}; the layer was truncated or replaced, push the image again"
            ) from wrong
        if wrong is not None:
            raise wrong
        return ReadLayer(entries, seen.size)


class _Passing:
    """Pieces on their way to whoever reads the tar."""

    def __init__(
        self, pieces: Iterator[bytes], checksum: _Checksum | None, proceed: Callable[[], None]
    ) -> None:
        self._pieces = pieces
        self._checksum = checksum
        self._proceed = proceed
        self.size = 0
        self.failed = False  # the pieces themselves could not be had; whoever asked knows why

    def pieces(self) -> Iterator[bytes]:
        try:
            for piece in self._pieces:
                if self._checksum is not None:
                    self._checksum.update(piece)
                self.size += len(piece)
                self._proceed()
                yield piece
        except Exception:
            self.failed = True
            raise


class _Checksum:
    """A SHA-256 that a thread of its own works on; a few pieces may wait for it."""

    def __init__(self, pool: ThreadPoolExecutor) -> None:
        self._pool = pool
        self._hash = hashlib.sha256()
        self._waiting: deque[Future[None]] = deque()

    def update(self, piece: bytes) -> None:
        self._waiting.append(self._pool.submit(self._hash.update, piece))
        if len(self._waiting) > _PIECES_AHEAD:
            self._waiting.popleft().result()

    def digest(self) -> str:
        while self._waiting:
            self._waiting.popleft().result()
        return self._hash.hexdigest()


@contextmanager
def _checksum() -> Iterator[_Checksum]:
    with ThreadPoolExecutor(1, thread_name_prefix="hash") as pool:
        yield _Checksum(pool)


@contextmanager
def _ahead(pieces: Iterator[bytes]) -> Iterator[Iterator[bytes]]:
    """*pieces*, which a thread of its own gets, a few before they are asked for."""
    waiting: deque[Future[bytes | None]] = deque()
    with ThreadPoolExecutor(1, thread_name_prefix="unpack") as pool:

        def taken() -> Iterator[bytes]:
            while (piece := waiting.popleft().result()) is not None:
                waiting.append(pool.submit(next, pieces, None))
                yield piece

        for _ in range(_PIECES_AHEAD):
            waiting.append(pool.submit(next, pieces, None))
        try:
            yield taken()
        finally:
            for future in waiting:
                future.cancel()


def _told_apart(pieces: Iterator[bytes], source: Iterator[bytes]) -> Iterator[bytes]:
    """*pieces*, and *source* read to its end whatever happens, since only there its digest is checked.

    Bytes that were spoilt on the way look like a corrupt layer to the decompressor; the source's own
    complaint is the true one then.
    """
    try:
        yield from pieces
    except LayerInvalid:
        deque(source, maxlen=0)
        raise
    deque(source, maxlen=0)
