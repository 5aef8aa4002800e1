"""What the store needs of a remote: ranges of blobs. Nothing here knows that registries exist.

`launch` adapts a registry (or a layout on disk) to this; tests script it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol


class BlobSource(Protocol):
    """Where compressed bytes come from."""

    def read_at(self, blob_id: str, offset: int, size: int) -> Iterator[bytes]:
        """Yield exactly *size* bytes of blob *blob_id* from byte *offset*, in pieces, as they arrive.

        Called from up to `Limits.demand_connections + Limits.bulk_connections` threads of one attachment at
        once. An iterator may be dropped before its end; it is then closed. May raise anything; an exception
        whose attribute `temporary` is true is tried again within the deadline, and not before as many seconds
        as its attribute `retry_after` says. Readers are told of it, so it should be raised soon. The pieces
        need not be right: every chunk is checked against its digest before it is written or served.
        """

    def distrust(self, blob_id: str, offset: int, size: int) -> None:
        """These bytes, just read, did not match their digests; called before they are read again.

        By the thread that read them. A source that has them from several places asks another next time.
        """


def is_temporary(error: BaseException) -> bool:
    """Whether trying the same again can help: the error says so itself, or it is the socket's."""
    return bool(getattr(error, "temporary", isinstance(error, (TimeoutError, ConnectionError))))


def wanted_rest(error: BaseException | None) -> float:
    """Seconds in which the remote, which failed with *error*, wants to be left alone."""
    return getattr(error, "retry_after", None) or 0.0
