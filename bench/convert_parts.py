"""What each part of a conversion costs alone: processor time per byte of unpacked layer, one thread.

Measured over the very layers that are converted, so that the sum says how fast a conversion could be at best
on this machine: cores divided by the sum. Tars are cut blindly where the builder cuts files.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from builder.layers.layer_stream import plain_pieces
from rafs.blob_writer import pack_unit
from rafs.digests import chunk_digest
from registry_client.manifest import Manifest
from registry_client.source import ImageSource

PARTS = ("gunzip", "sha256 in", "sha256 out", "blake3", "zstd", "sha256 blob")


@dataclass(frozen=True, slots=True)
class Parts:
    """CPU seconds per part for the whole image, and how large that is."""

    seconds: dict[str, float]
    tar_bytes: int
    source_bytes: int
    packed_bytes: int

    @property
    def total(self) -> float:
        """CPU seconds of all parts together."""
        return sum(self.seconds.values())

    def bound(self, cores: int) -> float:
        """Bytes of unpacked layers per second, if *cores* did nothing but these parts."""
        return cores * self.tar_bytes / self.total


def measure_parts(
    source: ImageSource, manifest: Manifest, *, chunk_size: int, batch_size: int, level: int
) -> Parts:
    """Measure the parts over all layers of *manifest*; memory holds one layer as it is stored.

    Raises:
        BuildError, RegistryError: a layer cannot be read.
    """
    clock = dict.fromkeys(PARTS, 0.0)
    plain_hash, stored_hash, blob_hash = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    tar_bytes = source_bytes = packed_bytes = 0
    for layer in manifest.layers:
        stored = list(source.read_blob(layer))
        source_bytes += layer.size
        with _timed(clock, "sha256 in"):
            for piece in stored:
                stored_hash.update(piece)
        for unit in _units(_ticked(plain_pieces(stored, layer.digest).pieces, clock, "gunzip"), batch_size):
            tar_bytes += len(unit)
            with _timed(clock, "sha256 out"):
                plain_hash.update(unit)
            chunks = [unit[at : at + chunk_size] for at in range(0, len(unit), chunk_size)]
            with _timed(clock, "blake3"):
                digests = [chunk_digest(chunk) for chunk in chunks]
            with _timed(clock, "zstd"):
                packed = pack_unit(chunks, digests, level=level)
            packed_bytes += len(packed.payload)
            with _timed(clock, "sha256 blob"):
                blob_hash.update(packed.payload)
    return Parts(clock, tar_bytes, source_bytes, packed_bytes)


@contextmanager
def _timed(clock: dict[str, float], part: str) -> Iterator[None]:
    began = time.thread_time()
    yield
    clock[part] += time.thread_time() - began


def _ticked(pieces: Iterator[bytes], clock: dict[str, float], part: str) -> Iterator[bytes]:
    while True:
        with _timed(clock, part):
            piece = next(pieces, None)
        if piece is None:
            return
        yield piece


def _units(pieces: Iterable[bytes], size: int) -> Iterator[bytes]:
    pending = bytearray()
    for piece in pieces:
        pending += piece
        while len(pending) >= size:
            yield bytes(pending[:size])
            del pending[:size]
    if pending:
        yield bytes(pending)
