"""A layer on its way in: unpacked once, checked against its diff id, and then readable at any position.

Two threads per layer: the caller's fetches and inflates, a second one hashes and writes, so that one large
layer keeps two cores busy. Not here: what the tar says (`tar_index`).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from builder.errors import LayerInvalid
from builder.layer_stream import plain_pieces
from builder.scratch import ScratchFile

_PIECES_IN_FLIGHT: Final = 8  # of at most 1 MiB each, between the inflating and the writing thread


def spool_layer(
    stored: Iterable[bytes],
    *,
    layer: str,
    diff_id: str,
    directory: Path | None,
    proceed: Callable[[], None],
) -> ScratchFile:
    """The plain tar of a layer in a scratch file, which the caller closes.

    *stored* gives the bytes as they travel; *diff_id* is the `sha256:` digest of the plain tar;
    *proceed* is called between pieces, and may raise to give up.

    Raises:
        LayerInvalid: corrupt compression, or the content is not that of *diff_id*.
        SpoolFull, SpoolFailed: no room, or no working directory. What *stored* raises passes through.
    """
    spool = ScratchFile(directory)
    source = iter(stored)
    checksum = hashlib.sha256()

    def take(piece: bytes) -> None:
        checksum.update(piece)
        spool.append(piece)

    try:
        with ThreadPoolExecutor(1, thread_name_prefix="spool") as writer:
            waiting: deque[Future[None]] = deque()
            for piece in _told_apart(plain_pieces(source, layer), source):
                waiting.append(writer.submit(take, piece))
                if len(waiting) > _PIECES_IN_FLIGHT:
                    waiting.popleft().result()
                proceed()
            while waiting:
                waiting.popleft().result()
        found = f"sha256:{checksum.hexdigest()}"
        if found != diff_id:
            raise LayerInvalid(
                f"layer {layer}: unpacked to {spool.size} bytes with digest {found}, the image's config says "
                f"{diff_id}; the layer was truncated or replaced, push the image again"
            )
    except BaseException:
        spool.close()
        raise
    return spool


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
