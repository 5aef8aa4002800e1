"""Choices of ours where the format leaves one; a converter may override each."""

from __future__ import annotations

from typing import Final

CHUNK_SIZE: Final = 256 << 10  # bytes; what is deduplicated, traced and verified
BATCH_SIZE: Final = 1 << 20  # bytes of chunks in one compressed unit; what is fetched
COMPRESSION_LEVEL: Final = 6  # zstd: 0.88-0.90 of gzip -6 at 1 MiB units

WINDOW_TARGET: Final = 1 << 20  # bytes; what is local or not
WINDOW_MIN: Final = 256 << 10
WINDOW_MAX: Final = 4 << 20  # a larger unit makes a larger window
