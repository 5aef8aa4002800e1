"""Unnamed temporary files: the layers' chunks and the blobs made of them.

They have no name from the start, so nothing is left behind whatever ends the program. Reads are positional
and safe from any thread; appending is one thread's. Not for anything that has to survive.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from builder.errors import BuildError, SpoolFailed, SpoolFull
from registry_client.sizes import FULL_ERRNOS, megabytes, room_left


class ScratchFile:
    """A file without a name below *directory*; `size` is its length in bytes."""

    def __init__(self, directory: Path | None = None) -> None:
        """Make an empty file in *directory* (default: where the system keeps temporary files).

        Raises:
            SpoolFull, SpoolFailed: the directory cannot take it.
        """
        self._where = directory if directory is not None else Path(tempfile.gettempdir())
        self.size = 0
        with self._translated():
            self._file = tempfile.TemporaryFile(dir=self._where, buffering=0)  # noqa: SIM115 - closed by close

    def append(self, piece: bytes | memoryview) -> None:
        """Add *piece* at the end.

        Raises:
            SpoolFull, SpoolFailed: it was not, or not wholly, written.
        """
        rest = memoryview(piece)
        with self._translated():
            while rest:
                written = os.write(self._file.fileno(), rest)
                self.size += written
                rest = rest[written:]

    def append_all(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Add *pieces*, at most 1024, one behind the other at the end.

        Raises:
            SpoolFull, SpoolFailed: they were not, or not wholly, written.
        """
        if not pieces:
            return
        with self._translated():
            written = os.writev(self._file.fileno(), pieces)
        self.size += written
        for piece in pieces:
            if written < len(piece):
                self.append(memoryview(piece)[written:])
            written = max(0, written - len(piece))

    def read(self, offset: int, size: int) -> bytes:
        """The *size* bytes from byte *offset*; fewer only where the file ends before that.

        Raises:
            SpoolFailed: the disk reported an error.
        """
        try:
            return os.pread(self._file.fileno(), size, offset)
        except OSError as error:
            raise self._explained(error) from error

    def open(self) -> BinaryIO:
        """A new reader from the start, with a position of its own; the caller closes it."""
        with self._translated():
            return Path(f"/proc/self/fd/{self._file.fileno()}").open("rb")

    def close(self) -> None:
        """Give the space back. Readers that `open` gave stay usable."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self._explained(error) from error

    def _explained(self, error: OSError) -> BuildError:
        if error.errno in FULL_ERRNOS:
            return SpoolFull(
                f"writing temporary files in {self._where}: no space left{room_left(self._where)} behind "
                f"{megabytes(self.size)} of one of them; the unpacked layers and their blobs have to fit "
                "there, so free some or name another place with --work-dir"
            )
        return SpoolFailed(f"using temporary files in {self._where}: {error.strerror}")
