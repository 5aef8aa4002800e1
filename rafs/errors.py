"""What can be wrong with an image, as the caller has to decide about it.

Every exception that leaves this package is a `RafsError`; nothing of `struct`, `zstandard` or `lz4` escapes.
"""

from __future__ import annotations


class RafsError(Exception):
    """Anything this package refuses."""


class FormatInvalid(RafsError):
    """The bytes break a rule of the format (field, found, expected). Reading them again cannot help."""


class ChunkInvalid(FormatInvalid):
    """Chunk bytes are not what their table promises. Fetching them again may help."""


class FormatUnsupported(RafsError):
    """The image may be fine, but it uses a feature that is not read here; `feature` is its name."""

    def __init__(self, feature: str, found: str) -> None:
        super().__init__(f"{feature} is not supported: {found}")
        self.feature = feature


class ImageTooLarge(RafsError):
    """What is to be written does not fit into the format (number of blobs, chunks, block addresses)."""
