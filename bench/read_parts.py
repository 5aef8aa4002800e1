"""What bringing one window here costs without nopull: its range by HTTP, zstd, digests, a write; no more.

Each step is the shortest program that does it, on one kept connection; the figures of `nopull bench read` are
quotients of its times.
"""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zstandard
from blake3 import blake3

from bench.errors import BenchError
from rafs.blob_meta import BlobMeta
from rafs.windows import Window


class Cost(NamedTuple):
    """Seconds of one window, by part."""

    http: float
    zstd: float
    verify: float
    write: float

    @property
    def total(self) -> float:
        """All parts, one after the other."""
        return sum(self)


@dataclass(slots=True)
class Parts:
    """Brings windows of blobs of one repository to files below *directory*."""

    connection: http.client.HTTPConnection
    repository: str
    directory: Path

    def bring(self, meta: BlobMeta, window: Window) -> Cost:
        """Fetch, decompress, verify and write *window*; what each took.

        Raises:
            BenchError: the registry answers otherwise, or the bytes are wrong.
        """
        clock = time.perf_counter
        began = clock()
        last = window.compressed_end - 1
        self.connection.request(
            "GET",
            f"/v2/{self.repository}/blobs/sha256:{meta.id}",
            headers={"Range": f"bytes={window.compressed_start}-{last}", "Accept-Encoding": "identity"},
        )
        answer = self.connection.getresponse()
        body = answer.read()
        if answer.status != 206:
            raise BenchError(f"the registry answered a range with status {answer.status}")
        fetched = clock()
        units = [meta.unit(window.first_unit + number) for number in range(window.unit_count)]
        plain = []
        for unit in units:
            start = unit.compressed_offset - window.compressed_start
            stored = body[start : start + unit.compressed_size]
            plain.append(
                stored
                if unit.raw
                else zstandard.ZstdDecompressor().decompress(stored, max_output_size=unit.uncompressed_size)
            )
        unpacked = clock()
        for unit, content in zip(units, plain, strict=True):
            view = memoryview(content)
            for number in range(unit.first_chunk, unit.first_chunk + unit.chunk_count):
                chunk = meta.chunk(number)
                if blake3(view[chunk.unit_offset : chunk.unit_offset + chunk.size]).digest() != chunk.digest:
                    raise BenchError(f"chunk {number} of blob {meta.id} is wrong")
        verified = clock()
        target = os.open(self.directory / window.id, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            for unit, content in zip(units, plain, strict=True):
                for number in range(unit.first_chunk, unit.first_chunk + unit.chunk_count):
                    chunk = meta.chunk(number)
                    piece = memoryview(content)[chunk.unit_offset : chunk.unit_offset + chunk.size]
                    os.pwrite(target, piece, chunk.offset - window.start)
        finally:
            os.close(target)
        return Cost(fetched - began, unpacked - fetched, verified - unpacked, clock() - verified)


@contextmanager
def parts_at(host: str, repository: str, directory: Path) -> Iterator[Parts]:
    """The parts, with a connection that is open already."""
    address, _, port = host.rpartition(":")
    connection = http.client.HTTPConnection(address, int(port))
    connection.connect()
    try:
        yield Parts(connection, repository, directory)
    finally:
        connection.close()


def percentile(values: Sequence[float], share: float) -> float:
    """The value that *share* of *values* do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
