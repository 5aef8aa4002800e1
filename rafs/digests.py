"""The two digests of chunks, as one function from bytes to 32 bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from blake3 import blake3

from .codes import Digester


def digest_of(digester: Digester) -> Callable[[bytes | bytearray | memoryview], bytes]:
    """The function from bytes to their 32-byte digest. Any thread; the GIL is free during large pieces."""
    return _sha256 if digester is Digester.SHA256 else _blake3


def _blake3(content: bytes | bytearray | memoryview) -> bytes:
    digest: bytes = blake3(content).digest()
    return digest


def _sha256(content: bytes | bytearray | memoryview) -> bytes:
    return hashlib.sha256(content).digest()
