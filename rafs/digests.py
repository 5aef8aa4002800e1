"""The two digests of chunks, as functions from bytes to 32 bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from blake3 import blake3

from .codes import Digester


def digest_of(digester: Digester) -> Callable[[bytes | bytearray | memoryview], bytes]:
    """The function from bytes to their 32-byte digest. Any thread; the GIL is free during large pieces."""
    return _sha256 if digester is Digester.SHA256 else chunk_digest


def chunk_digest(content: bytes | bytearray | memoryview) -> bytes:
    """BLAKE3, by which chunks are known in every image that is written here. Threads as in `digest_of`."""
    return blake3(content).digest()


def _sha256(content: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(content).digest()
