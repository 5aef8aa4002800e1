"""Decryption of encrypted blobs: AES-128-XTS, each stored piece one data unit, all with the same tweak.

Key and tweak stand in the blob table, so this hides nothing from whoever has the bootstrap. It is not a check
either: what is decrypted is verified by its digests. `cryptography` is loaded when the first piece is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rafs.counted import counted

from .codes import CIPHER_BLOCK, CIPHER_FILLED
from .errors import ChunkInvalid

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.ciphers import Cipher
    from cryptography.hazmat.primitives.ciphers.modes import XTS

_FILLED: Final = b"\x78\x90"  # how a piece that was too short for a block ends after it was filled


class UnitCipher:
    """Decrypts the pieces of one blob. Any thread."""

    def __init__(self, key: bytes, tweak: bytes) -> None:
        """*key*: 32 bytes, two AES-128 keys; *tweak*: 16 bytes."""
        self._key = key
        self._tweak = tweak
        self._cipher: Cipher[XTS] | None = None

    def decrypt(self, stored: bytes | bytearray | memoryview, size: int | None = None) -> bytes:
        """The plain form of *stored*; *size* is its length, where that is known.

        A piece of 18 bytes may look like a shorter one that was filled; *size* tells them apart.

        Raises:
            ChunkInvalid: it is no whole piece, or the library refuses the key.
        """
        if len(stored) < CIPHER_BLOCK:
            raise ChunkInvalid(
                f"an encrypted piece of {counted(len(stored), 'byte')}, expected at least {CIPHER_BLOCK}"
            )
        try:
            if self._cipher is None:
                self._cipher = self._load()
            decryptor = self._cipher.decryptor()
            plain: bytes = decryptor.update(bytes(stored)) + decryptor.finalize()
        except ValueError as error:
            raise ChunkInvalid(f"{len(stored)} bytes cannot be decrypted: {error}") from error
        if len(plain) == CIPHER_FILLED != size and plain.endswith(_FILLED):
            missing = plain[CIPHER_BLOCK - 1]
            if 0 < missing <= CIPHER_BLOCK:
                return plain[: CIPHER_BLOCK - missing]
        return plain

    def _load(self) -> Cipher[XTS]:
        from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

        return Cipher(algorithms.AES(self._key), modes.XTS(self._tweak))
