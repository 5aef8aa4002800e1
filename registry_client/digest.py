"""Digests, and streams that cannot be read without being checked.

Parsed once at the edge; inside, a `Digest` is always well-formed, of an algorithm we can compute, and safe as
a file name. Not here: chunk digests of RAFS (those belong to the image format).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO, NewType

from registry_client.errors import DigestMismatch, ReferenceInvalid

Digest = NewType("Digest", str)
"""`sha256:` and 64 lower-case hex digits, or `sha512:` and 128."""

_FORM = re.compile(r"sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}")
_PIECE = 256 * 1024
_DAMAGED = "it is damaged, there or on the way: try again, or publish it anew"


def parse_digest(text: str) -> Digest:
    """*text* as a digest.

    Raises:
        ReferenceInvalid: not of the form, or of an algorithm that cannot be verified here.
    """
    if not isinstance(text, str) or not _FORM.fullmatch(text):
        raise ReferenceInvalid(
            f"{shorten(text)!r} is not a digest: expected sha256: followed by 64 lower-case hex digits"
        )
    return Digest(text)


def digest_of(raw: bytes) -> Digest:
    """The sha256 digest of *raw*."""
    return Digest("sha256:" + hashlib.sha256(raw).hexdigest())


def algorithm(digest: Digest) -> str:
    return digest.partition(":")[0]


def encoded(digest: Digest) -> str:
    """The hex digits alone."""
    return digest.partition(":")[2]


def check_bytes(raw: bytes, digest: Digest, size: int | None, what: str) -> None:
    """Return if *raw* has *digest* and, unless None, *size*; *what* names it in the error.

    Raises:
        DigestMismatch: it has not.
    """
    if size is not None and len(raw) != size:
        raise DigestMismatch(
            f"{what} has {len(raw)} bytes instead of the {size} its descriptor promises; {_DAMAGED}"
        )
    found = hashlib.new(algorithm(digest), raw).hexdigest()
    if found != encoded(digest):
        raise DigestMismatch(f"{what} has digest {algorithm(digest)}:{found} instead of {digest}; {_DAMAGED}")


class _Check:
    """Counts and hashes what passes; refuses the first byte too many."""

    __slots__ = ("_digest", "_hash", "_left", "_size", "_what")

    def __init__(self, digest: Digest, size: int, what: str) -> None:
        self._digest = digest
        self._size = size
        self._left = size
        self._what = what or f"blob {digest}"
        self._hash = hashlib.new(algorithm(digest))

    def feed(self, piece: bytes) -> None:
        self._left -= len(piece)
        if self._left < 0:
            raise DigestMismatch(
                f"{self._what} goes on after the {self._size} bytes its descriptor promises; {_DAMAGED}"
            )
        self._hash.update(piece)

    def finish(self) -> None:
        if self._left:
            raise DigestMismatch(
                f"{self._what} ends after {self._size - self._left} of the {self._size} bytes "
                f"its descriptor promises; {_DAMAGED}"
            )
        found = self._hash.hexdigest()
        if found != encoded(self._digest):
            raise DigestMismatch(
                f"{self._what} has digest {algorithm(self._digest)}:{found} instead of {self._digest}; "
                f"{_DAMAGED}"
            )


def verify_stream(chunks: Iterable[bytes], digest: Digest, size: int, what: str = "") -> Iterator[bytes]:
    """Yield *chunks* unchanged; only who reads to the end knows that they were right.

    Raises:
        DigestMismatch: at once when there is a byte more than *size*; at the end when there are fewer or the
            digest is another. *what* names the stream in the message (default: the blob's digest).
    """
    check = _Check(digest, size, what)
    for piece in chunks:
        check.feed(piece)
        yield piece
    check.finish()


class VerifyingReader:
    """A file opened for reading whose end of file is only returned after the digest was right.

    Owns nothing: the caller closes the wrapped file.
    """

    def __init__(self, wrapped: BinaryIO, digest: Digest, size: int, what: str = "") -> None:
        self._wrapped = wrapped
        self._check = _Check(digest, size, what)
        self._done = False

    def read(self, size: int = -1) -> bytes:
        """Up to *size* bytes (all that remain when negative); b"" at the verified end.

        Raises:
            DigestMismatch: as `verify_stream`.
        """
        if size < 0:
            return b"".join(iter(lambda: self.read(_PIECE), b""))
        if size == 0 or self._done:
            return b""
        piece = self._wrapped.read(size)
        if piece:
            self._check.feed(piece)
        else:
            self._check.finish()
            self._done = True
        return piece


def shorten(text: object, limit: int = 120) -> str:
    """*text* for a message: foreign text can be of any length."""
    shown = str(text)
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
