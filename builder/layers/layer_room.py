"""How much of a bootstrap the files of one layer may take, asked before memory is taken for it.

A few bytes of a layer can stand for much: a sparse file's header for a terabyte of zeros, a megabyte of
compressed zeros for a gigabyte of attributes. Readers refuse bootstraps above 1 GiB, so what would make one
need not be read to its end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from builder.layers.tar_header import Unshowable

# A chunk of its own takes 88 bytes of the bootstrap, so 12 million are all it can have; there is some room
# for chunks that several places share. In chunks of 256 KiB these are 4 TiB.
CHUNKS_LIMIT: Final = 1 << 24
XATTRS_LIMIT: Final = 512 << 20  # bytes; half of the bootstrap, and three million labels
_XATTR_COST: Final = 128  # bytes of memory for an attribute without its name and value, rounded up


class LayerRoom:
    """What is left for one layer. Not thread-safe."""

    def __init__(self, chunk_size: int) -> None:
        """*chunk_size* is where files are cut, in bytes."""
        self._chunk_size = chunk_size
        self._chunks = CHUNKS_LIMIT
        self._xattrs = XATTRS_LIMIT

    def take_file(self, size: int) -> None:
        """Room for the chunks of a file of *size* bytes.

        Raises:
            Unshowable: there is none.
        """
        self._chunks -= -(-size // self._chunk_size)
        if self._chunks < 0:
            raise Unshowable(
                f"with its {size} bytes the layer's files have more than {CHUNKS_LIMIT} chunks of "
                f"{self._chunk_size} bytes, which no image has room for"
            )

    def take_xattrs(self, xattrs: Mapping[bytes, bytes]) -> None:
        """Room for the attributes of an entry.

        Raises:
            Unshowable: there is none.
        """
        self._xattrs -= sum(_XATTR_COST + len(name) + len(value) for name, value in xattrs.items())
        if self._xattrs < 0:
            raise Unshowable(f"the layer's xattrs take more than {XATTRS_LIMIT} bytes")
